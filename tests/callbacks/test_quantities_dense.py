"""Each number that people act on against its formula, by dense matrices or in closed form."""

import math

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_callbacks.displacement import Displacement, Previous
from lightning_callbacks.noise import deviation, loss_noise
from lightning_callbacks.quantities.critical import EVALUATIONS, TOLERANCE, bracketed
from lightning_callbacks.quantities.residuals import absolute_residuals
from lightning_callbacks.stability import stability_limit
from tests.callbacks.lightning_helpers import answered, close, monitoring, regression
from tests.callbacks.lightning_helpers import trainer as made
from tests.helpers import generator, mlp, randn
from torch_newton import RegNewton
from torch_newton.graph.residuals import find_residuals

F = torch.nn.functional
X, Y = randn(12, 2, seed=1), randn(12, 1, seed=2)
HALVES = (slice(0, 4), slice(4, 12))


def loss_of_terms(net, x=X, y=Y, weights=(1.0, 3.0)):
    return sum(w * F.mse_loss(net(x[i]), y[i]) for w, i in zip(weights, HALVES, strict=True))


class Training(pl.LightningModule):
    """Records where its steps begin."""

    def __init__(self, optimizer, loss=loss_of_terms):
        super().__init__()
        self.net, self.loss, self.optimizer = mlp(2, 5, 1), loss, optimizer
        self.passed = []

    def on_train_batch_start(self, batch, batch_idx):
        self.passed.append(flat(self.net))

    def training_step(self, batch):
        return self.loss(self.net)

    def configure_optimizers(self):
        return self.optimizer(self.net.parameters())


def flat(net):
    return torch.cat([p.detach().reshape(-1) for p in net.parameters()])


def run(monitor, optimizer=lambda params: torch.optim.SGD(params, lr=0.05), steps=3, **options):
    module = Training(optimizer, **options)
    made(pl, steps, monitor).fit(module, DataLoader(TensorDataset(X, Y), batch_size=len(X)))
    return module


def function_of(net, loss=loss_of_terms):
    """The loss as a function of one vector of parameters."""
    named = dict(net.named_parameters())
    sizes = [p.numel() for p in named.values()]

    def at(vector):
        pieces = [v.view_as(p) for v, p in zip(vector.split(sizes), named.values(), strict=True)]
        swapped = dict(zip(named, pieces, strict=True))
        return loss(lambda x: torch.func.functional_call(net, swapped, (x,)))

    return at


def dense(module, theta):
    f = function_of(module.net)
    gradient, H = torch.func.grad(f)(theta), torch.func.hessian(f)(theta)
    return f, gradient, H


# Along the gradient and the step


def test_sharpness_is_that_of_the_dense_hessian():
    monitor = monitoring(1, quantities=("sharpness", "step_sharpness"))
    module = run(monitor)
    end, before = flat(module.net), module.passed[-1]
    _, g, H = dense(module, end)
    d = end - before
    close(monitor.latest["sharpness/gradient"], float(g @ H @ g / (g @ g)))
    close(monitor.latest["sharpness/step"], float(d @ H @ d / (d @ d)))
    close(monitor.latest["sharpness/limit"], 40.0)


def test_the_step_of_regnewton_is_that_before_the_one_observed():
    monitor = monitoring(1, quantities="step_sharpness")
    module = run(monitor, RegNewton)
    # The last measurement is where the third step begins.
    d = module.passed[2] - module.passed[1]
    _, _, H = dense(module, module.passed[2])
    close(monitor.latest["sharpness/step"], float(d @ H @ d / (d @ d)), 1e-6)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.LBFGS])
def test_a_step_begins_where_the_parameters_were(optimizer):
    monitor = monitoring(1, quantities="step_sharpness")
    module = run(monitor, optimizer)
    end = flat(module.net)
    d = end - module.passed[-1]
    _, _, H = dense(module, end)
    close(monitor.latest["sharpness/step"], float(d @ H @ d / (d @ d)))


def test_a_step_of_accumulated_gradients_begins_where_the_last_one_ended():
    monitor = monitoring(1, quantities="step_sharpness")
    module = Training(lambda params: torch.optim.SGD(params, lr=0.05))
    loader = DataLoader(TensorDataset(X, Y), batch_size=2)  # six batches
    made(pl, 2, monitor, accumulate_grad_batches=3).fit(module, loader)
    d = flat(module.net) - module.passed[3]
    _, _, H = dense(module, flat(module.net))
    close(monitor.latest["sharpness/step"], float(d @ H @ d / (d @ d)))


def test_before_a_step_there_is_none():
    monitor = monitoring(10, quantities=("step_sharpness", "critical"))
    run(monitor)
    assert math.isnan(monitor.latest["sharpness/step"])
    assert math.isnan(monitor.latest["critical/step"])
    previous = Previous()
    net = mlp(2, 5, 1)
    optimizers = [torch.optim.Adam(net.parameters()) for _ in range(2)]
    previous.keep(optimizers[0], list(net.parameters()), 0)
    assert previous.displacement(optimizers, list(net.parameters())) is None
    assert isinstance(previous.displacement(optimizers[:1], list(net.parameters())), Displacement)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("options", [{}, {"nesterov": True}, {"dampening": 0.5}])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_the_stability_limit_is_where_sgd_starts_to_diverge(momentum, options, decay):
    if "nesterov" in options and not momentum:
        pytest.skip("Nesterov's momentum needs one")
    settings = {"lr": 0.1, "momentum": momentum, "weight_decay": decay, **options}
    if not momentum:
        settings.pop("dampening", None)

    def size_after(curvature, steps=4000):
        x = torch.ones(1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([x], **settings)
        for _ in range(steps):
            optimizer.zero_grad()
            (curvature * x.square().sum() / 2).backward()
            optimizer.step()
            if not abs(float(x)) < 1e6:
                break
        return abs(float(x.detach()))

    x = torch.zeros(1, requires_grad=True)
    limit = stability_limit([torch.optim.SGD([x], **settings)])
    assert size_after(0.99 * limit) < 1
    assert size_after(1.01 * limit) > 1e3


def test_other_optimizers_have_no_limit():
    x, y = (torch.zeros(1, requires_grad=True) for _ in range(2))
    groups = [{"params": [x], "lr": 0.1}, {"params": [y], "lr": 0.2}]
    for optimizers in (
        [torch.optim.Adam([x])], [], [torch.optim.SGD([x], lr=1.0)] * 2, [torch.optim.SGD(groups)],
    ):  # fmt: skip
        assert math.isnan(stability_limit(optimizers))


# Critical sharpness


@pytest.mark.parametrize("critical", [0.03, 0.3, 0.9, 1.0, 1.7, 4.4, 30.0])
def test_the_bracket_holds_the_critical_length(critical):
    calls = []

    def loss_at(length):
        if length != 1.0:
            calls.append(length)
        return length * (length - critical)

    bracket = bracketed(loss_at)
    assert bracket.low <= critical <= bracket.high
    assert len(calls) <= EVALUATIONS
    if 0.3 <= critical <= 8:
        assert bracket.high - bracket.low <= 2 * TOLERANCE * bracket.high


def test_a_loss_that_only_falls_has_no_upper_end():
    bracket = bracketed(lambda length: -length)
    assert bracket.high == math.inf
    assert bracket.low >= 2 ** (EVALUATIONS - 2)


def test_a_loss_that_is_no_number_counts_as_higher():
    bracket = bracketed(lambda length: math.nan if length > 1.5 else -length)
    assert bracket.low <= 1.5 <= bracket.high < 1.7


def test_critical_sharpness_is_two_over_the_critical_learning_rate():
    monitor = monitoring(1, quantities="critical")
    module = run(monitor)
    end, before = flat(module.net), module.passed[-1]
    f = function_of(module.net)
    d = end - before
    lengths = torch.linspace(0, 64, 64001)[1:].double()
    start = f(before)
    first = next(float(s) for s in lengths if f(before + s * d) > start)
    latest = monitor.latest
    assert latest["critical/sharpness_low"] <= 2 / (0.05 * first) * (1 + 1e-3)
    assert latest["critical/sharpness_high"] >= 2 / (0.05 * first)
    assert latest["critical/step"] == pytest.approx(first, rel=2 * TOLERANCE)
    close(latest["critical/sharpness"] * latest["critical/step"] * 0.05, 2.0)


def test_on_a_quadratic_loss_it_is_the_curvature_along_the_gradient():
    class Quadratic(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.theta = torch.nn.Parameter(randn(6, seed=3))

    A = torch.diag(torch.linspace(0.5, 4, 6).double())
    seen = {}

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Quadratic()

        def training_step(self, batch):
            theta = self.net.theta
            seen.setdefault("theta", theta.detach().clone())
            return theta @ A @ theta / 2

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    monitor = monitoring(1, quantities="critical")
    made(pl, 1, monitor).fit(Module(), DataLoader(TensorDataset(X, Y), batch_size=12))
    g = A @ seen["theta"]
    expected = float(g @ A @ g / (g @ g))
    low, high = (monitor.latest[f"critical/sharpness_{end}"] for end in ("low", "high"))
    assert low <= expected <= high < 1.1 * low


# Kernels and terms


def test_the_effective_dimension_is_a_trace(one_pl):
    monitor = monitoring(damping=0.05, quantities=("nntk", "effective_dimension"))
    module = run(monitor, steps=1)
    theta = module.passed[0]

    def residuals(vector):
        z = torch.cat([(function_of(module.net, lambda net: net(X))(vector) - Y).reshape(-1)])
        weights = torch.cat([torch.full((4,), 2 / 4), torch.full((8,), 3 * 2 / 8)]).double()
        return weights.sqrt() * z

    J = torch.func.jacrev(residuals)(theta)
    K = J @ J.T
    expected = float(
        torch.linalg.solve(K + 0.05 * torch.eye(12, dtype=K.dtype), K).diagonal().sum()
    )
    close(monitor.latest["effective_dimension/value"], expected)
    low, high = (monitor.latest[f"effective_dimension/{end}"] for end in ("low", "high"))
    assert low <= expected <= high <= low + 1e-6
    few = monitoring(damping=0.05, quantities="effective_dimension", max_rows=1)
    run(few, steps=1)
    assert math.isnan(few.latest["effective_dimension/value"])
    low, high = (few.latest[f"effective_dimension/{end}"] for end in ("low", "high"))
    assert 0 < low <= expected <= high <= 12


def test_residuals_and_cosines_of_each_term():
    monitor = monitoring(quantities=("residuals", "alignment", "gram_shares"))
    module = run(monitor, steps=1)
    theta = module.passed[0]
    z = function_of(module.net, lambda net: net(X) - Y)(theta).detach().reshape(-1).abs()
    latest = monitor.latest
    for prefix, part in (("", slice(None)), ("0/", HALVES[0]), ("1/", HALVES[1])):
        close(latest[f"residual/{prefix}largest"], float(z[part].max()))
        close(latest[f"residual/{prefix}percentile_99"], float(torch.quantile(z[part], 0.99)))
    weights = ((1.0, 0.0), (0.0, 3.0))
    parts = [
        torch.func.grad(function_of(module.net, lambda net, w=w: loss_of_terms(net, weights=w)))
        for w in weights
    ]
    first, second = (part(theta) for part in parts)
    cosine = float(first @ second / first.norm() / second.norm())
    close(latest["alignment/0_1"], cosine)
    close(latest["alignment/lowest"], cosine)
    outputs = torch.func.jacrev(function_of(module.net, lambda net: net(X).reshape(-1)))(theta)
    traces = [
        w * float(outputs[i].square().sum()) for w, i in zip((0.5, 0.75), HALVES, strict=True)
    ]
    for k, value in enumerate(traces):
        error = latest[f"gram_share/{k}_error"]
        assert abs(latest[f"gram_share/{k}"] - value / sum(traces)) <= 5 * error
    close(latest["gram_share/0"] + latest["gram_share/1"], 1.0)


def test_residuals_of_a_cross_entropy_are_probabilities_less_labels():
    z, labels = randn(6, 3, seed=4).requires_grad_(), torch.tensor([0, 1, 2, 0, 1, 2])
    (term,) = find_residuals(F.cross_entropy(2 * z, labels)).of_outputs
    expected = (torch.softmax(2 * z, 1) - F.one_hot(labels, 3)).abs().reshape(-1)
    torch.testing.assert_close(absolute_residuals(term), expected.detach())


def test_a_loss_of_one_term_has_no_numbered_keys():
    monitor = monitoring(quantities=("residuals", "alignment", "gram_shares"))
    run(monitor, loss=lambda net: F.mse_loss(net(X), Y))
    assert set(monitor.latest) == {"residual/largest", "residual/percentile_99"}


# Precision


@pytest.mark.parametrize("sigma", [1e-8, 1e-3])
def test_the_noise_on_a_smooth_function_is_found(sigma):
    noise = sigma * torch.randn(7, 300, generator=generator(5), dtype=torch.float64)
    t = torch.linspace(-1e-4, 1e-4, 7).double()
    found = torch.tensor([deviation((torch.exp(t) + column).tolist()) for column in noise.T])
    # The least of five estimates of a few differences each is low, by about a half.
    assert 0.2 * sigma < found.median() < 1.2 * sigma


def test_the_noise_of_a_loss_in_single_precision_is_that_against_double():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 30), torch.nn.Tanh(), torch.nn.Linear(30, 1))
    x = torch.rand(200, 2)
    y = (net(x) + 1e-3 * torch.randn(200, 1)).detach() + 10
    net[2].bias.data += 10  # outputs of 10 with residuals of 1e-3: the loss has lost three digits
    params = list(net.parameters())

    def loss_at(vector, dtype=torch.float32):
        pieces = [v.view_as(p) for v, p in
                  zip(vector.split([p.numel() for p in params]), params, strict=True)]  # fmt: skip
        named = {n: (p.detach() + d).to(dtype) for (n, p), d in
                 zip(net.named_parameters(), pieces, strict=True)}  # fmt: skip
        return float(
            F.mse_loss(torch.func.functional_call(net, named, (x.to(dtype),)), y.to(dtype))
        )

    zero = torch.zeros(sum(p.numel() for p in params))
    errors = []
    for seed in range(40):
        shift = 1e-6 * torch.randn(len(zero), generator=generator(seed))
        errors.append(loss_at(shift) - loss_at(shift, torch.float64))
    spread = float(torch.tensor(errors).double().std())
    noise = answered(loss_noise(params, loss_at(zero), torch.finfo(torch.float32).eps), loss_at)
    assert 0.2 * spread < noise < 5 * spread
    assert noise > 100 * torch.finfo(torch.float32).eps * loss_at(zero)


def trained(dtype, steps):
    monitor = monitoring(steps, quantities="precision")
    net = torch.nn.Linear(2, 1).to(dtype)
    x = X.to(dtype)
    y = x @ torch.tensor([[1.0], [-2.0]], dtype=dtype) + 3
    module = regression(pl, lambda params: torch.optim.SGD(params, lr=0.3), net)
    loader = DataLoader(TensorDataset(x, y), batch_size=len(x))
    made(pl, steps, monitor).fit(module, loader)
    return monitor.latest


def test_it_is_said_when_rounding_limits_the_loss():
    with pytest.warns(UserWarning, match="rounding limits the loss"):
        single = trained(torch.float32, 300)
    assert single["precision/limited"] == 1
    assert single["precision/gain"] < single["precision/loss_noise"]
    assert trained(torch.float64, 60)["precision/limited"] == 0
    assert trained(torch.float32, 3)["precision/limited"] == 0


def test_where_the_loss_curves_down_the_gain_is_unbounded():
    monitor = monitoring(quantities="precision")
    run(monitor, loss=lambda net: -F.mse_loss(net(X), Y))
    assert monitor.latest["precision/gain"] == math.inf
    assert monitor.latest["precision/limited"] == 0
