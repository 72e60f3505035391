"""Ordinary set-ups of training that are hard to measure, each small enough for a test."""

import threading

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.helpers import generator, randn

X, Y, IMAGES = (randn(*shape, seed=3).float() for shape in ((6, 4), (6, 1), (6, 2, 6, 6)))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
WORDS = torch.randint(0, 7, (6, 5), generator=generator(4))


class Module(pl.LightningModule):
    """Trains a network by Adam on a loss of (network, batch)."""

    def __init__(self, net, loss, optimizer=torch.optim.Adam):
        super().__init__()
        self.net, self.loss, self.optimizer = net, loss, optimizer

    def training_step(self, batch):
        loss = self.loss(self.net, batch)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return self.optimizer(self.parameters(), 1e-2)


def regression(net, x=X, y=Y, **options):
    return Module(net, lambda net, b: F.mse_loss(net(b[0]), b[1]), **options), (x, y)


def classifier(net, x=X, y=LABELS):
    return Module(net, lambda net, b: F.cross_entropy(net(b[0]), b[1])), (x, y)


def mlp():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))


class Last(nn.Module):
    """The last state of a recurrent network, through a linear layer."""

    def __init__(self, cells):
        super().__init__()
        self.cells, self.head = cells, nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.cells(x[:, :, None].expand(-1, -1, 2))[0][:, -1])


class Words(nn.Module):
    """A table of words, and a layer after their mean."""

    def __init__(self, table):
        super().__init__()
        self.table, self.head = table, nn.Linear(4, 3)

    def forward(self, words):
        vectors = self.table(words)
        return self.head(vectors if vectors.ndim == 2 else vectors.mean(1))


class Encoder(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.table = nn.Embedding(7, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 8, dropout, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, words):
        return self.head(self.layer(self.table(words)).mean(1))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 12)

    def forward(self, x):
        q, k, v = self.inner(x)[None, None].chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v)[0, 0, :, :1]


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (1 - x.tanh().square())


class Function(nn.Module):
    """A function between two layers."""

    def __init__(self, function, inner=4, outer=5):
        super().__init__()
        self.first, self.last, self.function = nn.Linear(inner, outer), nn.Linear(5, 1), function

    def forward(self, x):
        return self.last(self.function(self.first(x)))


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 1, dtype=torch.complex64))

    def forward(self, x):
        return (x.to(torch.complex64) @ self.weight).abs()


class Mixed(nn.Module):
    """Layers of two dtypes."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 3).double(), nn.Linear(3, 1)

    def forward(self, x):
        return self.last(self.first(x.double()).float())


class Gan(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.critic = nn.Linear(4, 1), nn.Linear(1, 1)

    def training_step(self, batch):
        first, second = self.optimizers()
        for optimizer, sign in ((first, 1.0), (second, -1.0)):
            optimizer.zero_grad()
            self.manual_backward(sign * self.critic(self.generator(batch[0])).tanh().mean())
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.Adam(n.parameters(), 1e-2) for n in (self.generator, self.critic)]


class Failing(Module):
    """Fails wherever it is evaluated outside the training loop."""

    def __init__(self, error):
        super().__init__(mlp(), lambda net, b: F.mse_loss(net(b[0]), b[1]))
        self.error = error

    def training_step(self, batch):
        if "log" in vars(self):  # put there while nothing is to be logged
            raise self.error
        return super().training_step(batch)


class Dictionary(Module):
    """Its batch is a dictionary, from which it takes the labels."""

    def training_step(self, batch):
        labels = batch.pop("labels")
        return {"loss": F.cross_entropy(self.net(batch["inputs"]), labels)}


class Locked:
    """A batch of a class of its own, with something in it that cannot be copied."""

    def __init__(self):
        self.lock, self.x = threading.Lock(), X


def ctc(net, batch):
    log_probabilities = net(batch[0]).view(3, 2, 5).log_softmax(-1)
    targets, long = torch.tensor([[1, 2], [3, 1]]), torch.full((2,), 3)
    return F.ctc_loss(log_probabilities, targets, long, torch.full((2,), 2))


def compiled():
    return torch.compile(mlp(), backend="aot_eager")


BY_DIFFERENCES, HESSIAN, KERNELS, ALL = "differences of gradients", "H", "kernels", "all"

SETUPS = {
    "mlp": lambda: regression(mlp()),
    "convolution and batch norm": lambda: classifier(
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(),
                      nn.Linear(48, 3)), IMAGES),
    "group norm": lambda: classifier(
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(64, 3)),
        IMAGES),
    "layer norm and dropout": lambda: regression(
        nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Dropout(0.5), nn.Linear(5, 1))),
    "lstm": lambda: regression(Last(nn.LSTM(2, 4, batch_first=True))),
    "gru": lambda: regression(Last(nn.GRU(2, 4, batch_first=True))),
    "rnn": lambda: regression(Last(nn.RNN(2, 4, batch_first=True))),
    "transformer without dropout": lambda: classifier(Encoder(), WORDS),
    "transformer with dropout": lambda: classifier(Encoder(0.1), WORDS),
    "fused attention": lambda: regression(Attention()),
    "embedding": lambda: classifier(Words(nn.Embedding(7, 4)), WORDS),
    "embedding bag": lambda: classifier(Words(nn.EmbeddingBag(7, 4)), WORDS),
    "sparse embedding": lambda: (
        Module(nn.Embedding(7, 3, sparse=True),
               lambda net, b: F.cross_entropy(net(b[0]).mean(1), b[1]),
               lambda params, lr: torch.optim.SparseAdam(list(params), lr)), (WORDS, LABELS)),
    "ctc": lambda: (Module(nn.Linear(4, 5), ctc), (X, Y)),
    "cdist": lambda: regression(Function(lambda h: torch.cdist(h, torch.eye(5)))),
    "once differentiable": lambda: regression(Function(Once.apply)),
    "compiled": lambda: regression(compiled()),
    "checkpointed": lambda: regression(
        Function(lambda h: checkpoint(torch.tanh, h, use_reentrant=False))),
    "weight norm": lambda: regression(
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), nn.Linear(3, 1))),
    "spectral norm": lambda: regression(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 1))),
    "tied weights": lambda: regression(Function(lambda h: h @ torch.ones(5, 5))),
    "lazy": lambda: regression(nn.Sequential(nn.LazyLinear(5), nn.Tanh(), nn.Linear(5, 1))),
    "linear": lambda: regression(nn.Linear(4, 1)),
    "one sample": lambda: regression(mlp(), X[:1], Y[:1]),
    "absolute error": lambda: (
        Module(mlp(), lambda net, b: F.l1_loss(net(b[0]), b[1])), (X, Y)),
    "fourth power": lambda: (
        Module(mlp(), lambda net, b: (net(b[0]) - b[1]).pow(4).mean()), (X, Y)),
    "contrastive": lambda: (
        Module(nn.Linear(4, 3), lambda net, b: F.triplet_margin_loss(*net(b[0]).chunk(3))), (X, Y)),
    "loss that is NaN": lambda: (
        Module(mlp(), lambda net, b: net(b[0]).mean() * float("nan")), (X, Y)),
    "dictionary": lambda: (
        Dictionary(nn.Linear(4, 3), None), {"inputs": X, "labels": LABELS, "text": ["a"] * 6}),
    "complex": lambda: regression(Complex()),
    "double and single": lambda: regression(Mixed()),
    "a step that fails": lambda: (Failing(LookupError("the step was called twice")), (X, Y)),
    "exhausted memory": lambda: (
        Failing(torch.OutOfMemoryError("tried to allocate 1 TiB")), (X, Y)),
    "a batch that cannot be copied": lambda: (
        Module(mlp(), lambda net, b: net(b.x).square().mean()), Locked()),
    "gan": lambda: (Gan(), (X, Y)),
    "unused parameters": lambda: (
        Module(nn.ModuleList([mlp(), nn.Linear(2, 2)]),
               lambda net, b: F.mse_loss(net[0](b[0]), b[1])), (X, Y)),
}  # fmt: skip

NAN = {
    "complex": ALL, "double and single": ALL, "a step that fails": ALL, "exhausted memory": ALL,
    "a batch that cannot be copied": ALL, "sparse embedding": KERNELS,
    "weight norm": HESSIAN,
}  # fmt: skip
"""What is NaN, where that is not nothing."""

WARNED = {
    "once differentiable": BY_DIFFERENCES, "embedding bag": BY_DIFFERENCES, "ctc": BY_DIFFERENCES,
    "cdist": BY_DIFFERENCES, "sparse embedding": BY_DIFFERENCES,
    "complex": "view_as_complex", "double and single": "one dtype",
    "a step that fails": "LookupError: the step was called twice.*loss=callable",
    "exhausted memory": "OutOfMemoryError.*smaller batch",
    "a batch that cannot be copied": "cannot be copied.*probe=callable",
    "weight norm": "not symmetric",
}  # fmt: skip
"""What a warning says."""
