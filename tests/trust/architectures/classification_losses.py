"""Losses of classification."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers import mlp, randn
from tests.trust.architectures.build import cross_entropy, fit
from tests.trust.architectures.case import Case, Criterion, Problem

LABELS = torch.arange(12) % 3
ONE_HOT = F.one_hot(LABELS, 3).to(torch.float64)
SIGNS = 2 * ONE_HOT - 1
SOFT = randn(12, 3, seed=5).softmax(1)
WEIGHTS = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
GROWS = "a loss of separable classes has its infimum at infinity"


def case(
    name: str,
    spelled: Criterion,
    plain: Criterion | None = None,
    path: str | None = "FUNCTION_SPACE",
    quick: bool = False,
    **more: str,
) -> Case:
    """A loss of twelve samples of three logits; `plain` is the same loss in a plain form."""
    return Case(name, lambda: of(spelled, plain), path=path, grows=GROWS, quick=quick, **more)


def of(spelled: Criterion, plain: Criterion | None) -> Problem:
    return fit(mlp(3, 4, 3), randn(12, 3, seed=2), loss=spelled, criterion=plain)


def entropy(z: Tensor) -> Tensor:
    return F.cross_entropy(z, LABELS)


def binary(z: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(z, ONE_HOT)


def focal(z: Tensor) -> Tensor:
    p = z.softmax(1).gather(1, LABELS[:, None])
    return -((1 - p) ** 2 * p.log()).mean()


def both(loss: Criterion) -> dict[str, Criterion]:
    return {"spelled": loss, "plain": loss}


def pixels(z: Tensor) -> Tensor:
    """The twelve samples as two images of 2 x 3."""
    return F.cross_entropy(z.T.reshape(3, 2, 2, 3).transpose(0, 1), LABELS.view(2, 2, 3))


def sequence(z: Tensor) -> Tensor:
    return F.cross_entropy(z.view(2, 6, 3).transpose(1, 2), LABELS.view(2, 6))


def distilled(z: Tensor) -> Tensor:
    return F.kl_div(F.log_softmax(z / 2, 1), SOFT, reduction="batchmean") * 4


def jensen_shannon(z: Tensor) -> Tensor:
    p = z.softmax(1)
    mean = ((p + SOFT) / 2).log()
    return (p * (p.log() - mean) + SOFT * (SOFT.log() - mean)).sum(1).mean()


def temporal(z: Tensor) -> Tensor:
    """Connectionist temporal classification of two sequences of six."""
    logs = z.view(2, 6, 3).log_softmax(2).transpose(0, 1)
    return F.ctc_loss(
        logs, torch.tensor([[1, 2], [2, 1]]), torch.tensor([6, 6]), torch.tensor([2, 2])
    )


def chain(z: Tensor) -> Tensor:
    """A conditional random field with fixed transitions: a sum over all paths by a recursion."""
    moves, score = SIGNS[:3], z[0]
    for scores in z[1:]:
        score = torch.logsumexp(score[:, None] + moves, 0) + scores
    return torch.logsumexp(score, 0) - z.gather(1, LABELS[:, None]).sum()


def ordinal(z: Tensor) -> Tensor:
    """Cumulative logits: whether the label exceeds each threshold."""
    above = (LABELS[:, None] > torch.arange(2)).to(z)
    return F.binary_cross_entropy_with_logits(z[:, :1] - z[:, 1:].cumsum(1), above)


ignoring = torch.where(torch.arange(12) % 4 == 0, -100, LABELS)


def image() -> Problem:
    """A convolution's output has its classes in the second of four axes."""
    criterion = cross_entropy(LABELS.view(3, 2, 2))
    return fit(nn.Conv2d(1, 3, 2), randn(3, 1, 3, 3, seed=2), criterion=criterion)


def saturated() -> Problem:
    """Logits of 12 for the right class, in single precision: a loss of 1e-5."""
    net = nn.Linear(3, 3).float()
    with torch.no_grad():
        net.weight.copy_(12 * torch.eye(3))
    x = ONE_HOT + 0.01 * randn(12, 3, seed=2)
    return fit(net, x.float(), criterion=cross_entropy(LABELS))


CASES = [
    Case(
        "cross_entropy, saturated, float32",
        saturated,
        tol=3e-2,  # a step of 1e-4 in weights of 12 has two to three digits
        unprobed="differences need float64",
        grows=GROWS,
    ),
    Case("cross_entropy of a convolution", image, grows=GROWS),
    case("cross_entropy", **both(entropy), quick=True),
    case("cross_entropy, sum", **both(lambda z: F.cross_entropy(z, LABELS, reduction="sum"))),
    case("cross_entropy, weights", **both(lambda z: F.cross_entropy(z, LABELS, weight=WEIGHTS))),
    case(
        "cross_entropy, smoothed", **both(lambda z: F.cross_entropy(z, LABELS, label_smoothing=0.1))
    ),
    case("cross_entropy, ignore_index", **both(lambda z: F.cross_entropy(z, ignoring))),
    case("cross_entropy, soft targets", **both(lambda z: F.cross_entropy(z, SOFT))),
    case(
        "cross_entropy, weighted samples",
        **both(
            lambda z: (
                F.cross_entropy(z, LABELS, reduction="none") * torch.linspace(0, 1, 12)
            ).mean()
        ),
    ),
    case("cross_entropy, NCHW", pixels, entropy),
    case("cross_entropy, sequence", sequence, entropy),
    case(
        "cross_entropy, unbatched",
        **both(lambda z: sum(F.cross_entropy(z[i], LABELS[i]) for i in range(12)) / 12),
    ),
    case("nll_loss of log_softmax", lambda z: F.nll_loss(F.log_softmax(z, 1), LABELS), entropy),
    case(
        "log_softmax and gather",
        lambda z: -F.log_softmax(z, 1).gather(1, LABELS[:, None]).mean(),
        entropy,
    ),
    case(
        "log_softmax by index",
        lambda z: -F.log_softmax(z, 1)[torch.arange(12), LABELS].mean(),
        entropy,
    ),
    case(
        "log_softmax and one-hot", lambda z: -(ONE_HOT * F.log_softmax(z, 1)).sum(1).mean(), entropy
    ),
    case(
        "logsumexp",
        lambda z: (z.logsumexp(1) - z.gather(1, LABELS[:, None])[:, 0]).mean(),
        entropy,
    ),
    case(
        "log of softmax",
        lambda z: -z.softmax(1).log().gather(1, LABELS[:, None]).mean(),
        entropy,
    ),
    case(
        "Categorical",
        lambda z: -torch.distributions.Categorical(logits=z).log_prob(LABELS).mean(),
        entropy,
    ),
    case(
        "kl_div",
        lambda z: F.kl_div(F.log_softmax(z, 1), SOFT, reduction="batchmean"),
        lambda z: F.cross_entropy(z, SOFT),
    ),
    case("distillation", **both(distilled)),
    case("binary cross-entropy", **both(binary)),
    case(
        "binary cross-entropy, pos_weight",
        **both(lambda z: F.binary_cross_entropy_with_logits(z, ONE_HOT, pos_weight=WEIGHTS)),
    ),
    case(
        "binary_cross_entropy of sigmoid",
        lambda z: F.binary_cross_entropy(z.sigmoid(), ONE_HOT),
        binary,
    ),
    case("logsigmoid by hand", lambda z: -F.logsigmoid(SIGNS * z).mean(), binary),
    case("softplus of margins", lambda z: F.softplus(-SIGNS * z).mean(), binary),
    case("soft_margin_loss", lambda z: F.soft_margin_loss(z, SIGNS), binary),
    case(
        "multilabel_soft_margin_loss",
        lambda z: F.multilabel_soft_margin_loss(z, ONE_HOT),
        binary,
    ),
    case(
        "Bernoulli",
        lambda z: -torch.distributions.Bernoulli(logits=z).log_prob(ONE_HOT).mean(),
        binary,
    ),
    case("focal", focal, path=None),
    case(
        "focal, binary",
        lambda z: ((1 - torch.exp(-F.softplus(-SIGNS * z))) ** 2 * F.softplus(-SIGNS * z)).mean(),
        path=None,
    ),
    case(
        "squared hinge",
        lambda z: F.relu(1 - SIGNS * z).square().mean(),
        lambda z: F.relu(1 - SIGNS * z).square().mean(),
    ),
    case("hinge", lambda z: F.relu(1 - SIGNS * z).mean(), path=None),
    case(
        "multi_margin_loss",
        lambda z: F.multi_margin_loss(z, LABELS),
        path=None,
        differences="it has no second derivative",
    ),
    case("Brier score", lambda z: (z.softmax(1) - ONE_HOT).square().sum(1).mean()),
    case(
        "Dice",
        lambda z: 1 - 2 * (z.sigmoid() * ONE_HOT).sum() / (z.sigmoid() + ONE_HOT).sum(),
        path=None,
    ),
    case("Jensen-Shannon", jensen_shannon, path=None),
    case("perplexity", lambda z: entropy(z).exp(), path=None),
    case(
        "entropy as a penalty",
        lambda z: entropy(z) - 0.1 * (z.softmax(1) * z.log_softmax(1)).sum(1).mean(),
        path=None,
    ),
    case("temporal classification", temporal, path=None, differences="it has no second derivative"),
    case("random field", chain, path=None),
    case("ordinal", ordinal),
]
