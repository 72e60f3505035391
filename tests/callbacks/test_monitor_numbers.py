"""CurvatureMonitor logs what dense linear algebra gives."""

import math

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_callbacks.quantities.hessian import hessian_numbers
from lightning_callbacks.spectrum import hessian_spectrum
from tests.callbacks.lightning_helpers import (
    ADAM,
    ALL,
    KEYS,
    SPECTRA,
    X,
    Y,
    batches,
    close,
    expected_numbers,
    memory_logger,
    monitoring,
    regression,
    symmetric_root,
    trainer,
)
from tests.helpers import mlp, problem_of
from torch_newton import Adaptive, RegNewton, gradient, hessian, width


@pytest.mark.parametrize("exact_up_to", [400, 0])
@pytest.mark.parametrize("damping", [0.7, 0.01])
def test_numbers_are_those_of_dense_matrices(one_pl, exact_up_to, damping):
    module = regression(one_pl, net=mlp(2, 5, 1))
    monitor = monitoring(damping=damping, quantities=ALL, exact_up_to=exact_up_to)
    trainer(one_pl, 1, monitor).fit(module, batches())
    problem = problem_of(mlp(2, 5, 1), X, lambda z: torch.nn.functional.mse_loss(z, Y))
    expected = expected_numbers(problem, damping)
    latest = monitor.latest
    assert set(latest) >= KEYS | set(expected)
    if exact_up_to == 0:
        # Four random vectors estimate the share, which the Lanczos process does not compute.
        share = expected.pop("hessian/negative_fraction")
        low, high = (latest[f"hessian/negative_fraction_{end}"] for end in ("low", "high"))
        assert low <= share <= high
        assert high - low > 0.1
    for key, value in expected.items():
        close(latest[key], value)
    assert latest["hessian/lambda_min_error"] < (1e-8 if exact_up_to else 1e-4)
    assert latest["hessian/lambda_min_lowest"] <= latest["hessian/lambda_min"]


def test_only_what_is_asked_for_is_measured(one_pl):
    for quantity in SPECTRA:
        monitor = monitoring(damping=0.1, quantities=quantity)
        trainer(one_pl, 1, monitor).fit(regression(one_pl), batches())
        group = "hessian" if quantity == "trace" else quantity
        assert {key.split("/")[0] for key in monitor.latest} == {group}
        assert all("trace" in key for key in monitor.latest) == (quantity == "trace")


def test_numbers_of_a_classifier_leave_out_what_its_loss_does_not_see(one_pl):
    labels = torch.tensor([0, 1, 2, 1, 0, 2])
    problem = problem_of(
        mlp(2, 4, 3), X[:6], lambda z: torch.nn.functional.cross_entropy(z, labels)
    )
    module = regression(one_pl, net=mlp(2, 4, 3), loss=torch.nn.functional.cross_entropy)
    monitor = monitoring(damping=0.1)
    trainer(one_pl, 1, monitor).fit(module, batches(X[:6], labels))
    A = symmetric_root(problem.output_hessian()) @ problem.jacobian()
    kappa = torch.linalg.eigvalsh(A @ A.T)
    seen = kappa[6:]  # softmax ignores a shift of each sample's logits
    close(monitor.latest["nntk/lambda_max"], float(seen[-1] / (seen[-1] + 0.1)))
    close(monitor.latest["nntk/lambda_min"], float(seen[0] / (seen[0] + 0.1)))
    ntk = torch.linalg.eigvalsh(problem.jacobian() @ problem.jacobian().T)
    close(monitor.latest["ntk/lambda_max"], float(ntk[-1]))


def test_the_damping_of_optimizers_that_have_none_is_the_width_rule(one_pl):
    module = regression(one_pl)
    params = list(module.net.parameters())
    loss = torch.nn.functional.mse_loss(module.net(X), Y)
    g = gradient(loss, params)
    s = float((hessian(loss, params) @ g).norm() / g.norm())
    memory = memory_logger(one_pl)
    trainer(one_pl, 4, monitoring(2), logger=memory).fit(module, batches())
    low, shifted = memory.of("hessian/lambda_min"), memory.of("hessian/damped_lambda_min")
    assert sorted(low) == [0, 2, 4]
    for step in low:
        close(shifted[step] - low[step], Adaptive().start * s * width(params) ** -0.25)


def test_the_damping_of_newton_is_its_own(one_pl):
    memory = memory_logger(one_pl)
    module = regression(one_pl, RegNewton)
    monitor = monitoring(1)
    run = trainer(one_pl, 3, monitor, logger=memory)
    run.fit(module, batches())
    step = run.optimizers[0].last_step
    assert monitor.latest["newton/damping"] == step.damping
    assert monitor.latest["newton/cg_iterations"] == step.cg_iterations
    assert monitor.latest["newton/ratio"] == step.ratio
    assert monitor.latest["newton/loss_after"] == step.loss_after
    shift = monitor.latest["hessian/damped_lambda_min"] - monitor.latest["hessian/lambda_min"]
    assert step.system.scaled or shift == pytest.approx(step.damping)
    assert sorted(memory.of("newton/damping")) == [0, 1, 2]
    assert sorted(memory.of("hessian/lambda_min")) == [0, 1, 2]


def test_a_fixed_damping_of_newton_counts_before_its_first_step(one_pl):
    module = regression(one_pl, lambda params: RegNewton(params, damping=0.25))
    memory = memory_logger(one_pl)
    trainer(one_pl, 1, monitoring(1), logger=memory).fit(module, batches())
    low, shifted = memory.of("hessian/lambda_min"), memory.of("hessian/damped_lambda_min")
    close(shifted[0] - low[0], 0.25)


def test_definiteness_is_claimed_only_where_proved():
    class Matrix:
        def __init__(self, values):
            self.loss_params = [torch.zeros(len(values), dtype=torch.float64, requires_grad=True)]
            self.values = torch.tensor(values, dtype=torch.float64)

        def spectrum(self, exact_up_to):
            (theta,) = self.loss_params
            H = hessian((self.values * theta**2).sum() / 2, [theta])
            return hessian_spectrum(H, 2.3e-16, exact_up_to=exact_up_to, products=50)

    for exact_up_to in (0, 100):
        spectrum = Matrix([-1.0, 0.5, 2.0]).spectrum(exact_up_to)
        assert hessian_numbers(spectrum, 1.1)["hessian/positive_definite"] == 1
        assert hessian_numbers(spectrum, 0.9)["hessian/positive_definite"] == 0
        assert math.isnan(hessian_numbers(spectrum, 1.0)["hessian/positive_definite"])
        assert hessian_numbers(spectrum, 1.0)["hessian/negative_fraction"] == pytest.approx(
            1 / 3, abs=0.35
        )


def test_more_rows_than_parameters_are_a_singular_kernel(one_pl):
    net = torch.nn.Linear(2, 1, dtype=torch.float64)
    monitor = monitoring(damping=0.1)
    trainer(one_pl, 1, monitor).fit(regression(one_pl, net=net), batches())
    assert monitor.latest["ntk/lambda_min"] == 0
    assert monitor.latest["ntk/condition_number"] == math.inf


def test_kernels_beyond_the_row_budget_are_matrix_free(one_pl):
    kernels = {}
    for rows in (100, 3):
        kernels[rows] = monitoring(damping=0.1, quantities=("ntk", "nntk"), max_rows=rows)
        trainer(one_pl, 1, kernels[rows]).fit(regression(one_pl), batches())
    for key in ("ntk/lambda_min", "ntk/lambda_max", "nntk/lambda_min", "nntk/lambda_max"):
        close(kernels[3].latest[key], kernels[100].latest[key])
    assert set(kernels[100].spectra) == {"ntk", "nntk"}
    assert not kernels[3].spectra


def test_a_penalty_on_the_weights_is_no_output(one_pl):
    def penalised(z, y):
        penalty = sum(p.square().sum() for p in module.parameters())
        return torch.nn.functional.mse_loss(z, y) + 0.01 * penalty

    module = regression(one_pl, loss=penalised)
    plain = monitoring(damping=0.1)
    with_penalty = monitoring(damping=0.1)
    trainer(one_pl, 1, with_penalty).fit(module, batches())
    trainer(one_pl, 1, plain).fit(regression(one_pl), batches())
    close(with_penalty.latest["ntk/lambda_max"], plain.latest["ntk/lambda_max"])
    close(with_penalty.latest["hessian/lambda_max"], plain.latest["hessian/lambda_max"], 0.5)
    assert with_penalty.latest["hessian/lambda_max"] > plain.latest["hessian/lambda_max"] + 0.01


def test_rows_of_a_physics_informed_loss_are_its_residuals(one_pl):
    x = torch.linspace(0, 1, 7, dtype=torch.float64)[:, None]

    def residual(net, x):
        x = x.requires_grad_()
        u = net(x)
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        return slope + u

    class Decay(one_pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = mlp(1, 9, 1)

        def training_step(self, batch, batch_idx):
            return residual(self.net, batch).square().mean()

        def configure_optimizers(self):
            return ADAM(self.parameters())

    module = Decay()
    params = list(module.net.parameters())
    r = residual(module.net, x.clone())
    J = torch.stack(
        [
            torch.cat([g.reshape(-1) for g in torch.autograd.grad(
                entry, params, retain_graph=True, materialize_grads=True, allow_unused=True
            )])
            for entry in r.squeeze()
        ]
    )  # fmt: skip
    monitor = monitoring(damping=0.1)
    trainer(one_pl, 1, monitor).fit(module, DataLoader(x, batch_size=7))
    close(monitor.latest["ntk/lambda_max"], float(torch.linalg.eigvalsh(J @ J.T)[-1]))


def test_outputs_can_be_given(one_pl):
    def quartic(z, y):
        return (z - y).abs().pow(4).mean()

    module = regression(one_pl, loss=quartic)
    J = problem_of(module.net, X, quartic).jacobian()
    kernel = torch.linalg.eigvalsh(J @ J.T)
    monitor = monitoring(damping=0.5, outputs=lambda module, batch: module.net(batch[0]))
    trainer(one_pl, 1, monitor).fit(module, batches())
    close(monitor.latest["ntk/lambda_max"], float(kernel[-1]))
    close(monitor.latest["nntk/lambda_max"], float(kernel[-1] / (kernel[-1] + 10 * 0.5)))


def test_a_loss_without_recognised_outputs_warns_once_and_names_the_way_out(one_pl):
    module = regression(one_pl, loss=lambda z, y: -(z - y).norm(p=4))
    monitor = monitoring(1)
    with pytest.warns(UserWarning, match="outputs=callable") as caught:
        trainer(one_pl, 3, monitor).fit(module, batches())
    assert sum("outputs=callable" in str(warning.message) for warning in caught) == 1
    assert not any(key.startswith(("ntk", "nntk")) for key in monitor.latest)
    assert "hessian/lambda_min" in monitor.latest


def test_a_loss_that_is_not_finite_gives_nan_and_training_goes_on(one_pl):
    module = regression(one_pl, loss=lambda z, y: (z - y).square().mean() * math.nan)
    monitor = monitoring(1)
    run = trainer(one_pl, 2, monitor)
    run.fit(module, batches())
    assert run.global_step == 2
    assert set(monitor.latest) == KEYS
    bounds = {key for key in KEYS if key.endswith(("_error", "_lowest"))}
    interval = {"hessian/negative_fraction_low", "hessian/negative_fraction_high"}
    dimension = {"effective_dimension/low": 0.0, "effective_dimension/high": math.inf}
    for key in KEYS - bounds - interval - set(dimension):
        assert math.isnan(monitor.latest[key])
    assert dimension.items() <= monitor.latest.items()
    assert all(math.isinf(monitor.latest[key]) for key in bounds)
    assert [monitor.latest[key] for key in sorted(interval)] == [1, 0]


def test_reduced_precision_widens_the_bounds(one_pl):
    net = mlp(2, 5, 1).float()
    monitor = monitoring(damping=0.1)
    run = trainer(one_pl, 1, monitor, precision="bf16-mixed")
    run.fit(regression(one_pl, net=net), batches(X.float(), Y.float()))
    problem = problem_of(mlp(2, 5, 1), X, lambda z: torch.nn.functional.mse_loss(z, Y))
    exact = expected_numbers(problem, 0.1)
    error = abs(monitor.latest["hessian/lambda_min"] - exact["hessian/lambda_min"])
    assert error <= monitor.latest["hessian/lambda_min_error"]
