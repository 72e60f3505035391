"""Trainers, modules and dense numbers for the tests of CurvatureMonitor."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_callbacks import QUANTITIES, CurvatureMonitor
from tests.helpers import mlp, randn
from torch_newton import RegNewton

NAMESPACES = ["pytorch_lightning", "lightning.pytorch"]
KEYS = {
    *(f"hessian/{name}" for name in (
        "lambda_min", "lambda_min_error", "lambda_min_lowest", "lambda_max", "lambda_max_error",
        "negative_fraction", "negative_fraction_low", "negative_fraction_high",
        "damped_lambda_min", "positive_definite",
    )),
    *(f"{kernel}/{name}" for kernel in ("ntk", "nntk") for name in (
        "lambda_min", "lambda_min_error", "lambda_max", "lambda_max_error", "condition_number",
    )),
    *(f"effective_dimension/{name}" for name in ("value", "low", "high")),
    *(f"sharpness/{name}" for name in ("gradient", "limit")),
    *(f"residual/{name}" for name in ("largest", "percentile_99")),
    *(f"precision/{name}" for name in ("loss_noise", "gain", "limited")),
}  # fmt: skip
SPECTRA = ("hessian", "trace", "ntk", "nntk", "nntk_hessian")
ALL = tuple(name for name in QUANTITIES if name != "newton")


def monitoring(*arguments, **options):
    """A monitor that measures at every step it should, whatever that costs."""
    return CurvatureMonitor(*arguments, **{"max_overhead": None, **options})


def memory_logger(pl):
    class Memory(pl.loggers.logger.Logger):
        name = version = "memory"

        def __init__(self):
            super().__init__()
            self.rows = []

        def log_hyperparams(self, *args, **kwargs):
            pass

        def log_metrics(self, metrics, step=None):
            self.rows.append((step, dict(metrics)))

        def of(self, key):
            return {step: row[key] for step, row in self.rows if key in row}

    return Memory()


def trainer(pl, steps, *callbacks, **options):
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "max_epochs": -1,
        "log_every_n_steps": 1,
    }
    return pl.Trainer(max_steps=steps, callbacks=list(callbacks), **{**quiet, **options})


ADAM = lambda params: torch.optim.Adam(params, lr=1e-2)  # noqa: E731


def regression(pl, optimizer=ADAM, net=None, loss=torch.nn.functional.mse_loss):
    class Regression(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = mlp(2, 5, 1) if net is None else net

        def training_step(self, batch):
            x, y = batch
            value = loss(self.net(x), y)
            self.log("loss", value)
            return value

        def configure_optimizers(self):
            return optimizer(self.net.parameters())

    return Regression()


X, Y = randn(10, 2, seed=1), randn(10, 1, seed=2)


def batches(x=X, y=Y, size=None, shuffle=False):
    dataset = TensorDataset(x, y)
    return DataLoader(dataset, batch_size=size or len(x), shuffle=shuffle)


def close(actual, expected, tol=1e-8):
    assert actual == pytest.approx(expected, rel=tol, abs=tol)


def symmetric_root(Q):
    values, vectors = torch.linalg.eigh(Q)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def expected_numbers(problem, damping, scaling=None):
    """All of the logged numbers by dense linear algebra and torch.func alone.

    The damping is that times D, where D^{-1/2} is given as `scaling`.
    """
    H = problem.hessian()
    D = torch.ones(len(H), dtype=H.dtype) if scaling is None else scaling**-2
    J = problem.jacobian()
    A = symmetric_root(problem.output_hessian()) @ J
    values = torch.linalg.eigvalsh(H)

    def newton(metric):
        return A @ torch.linalg.solve(metric + damping * torch.diag(D), A.T)

    kernels = {"ntk": J @ J.T, "nntk": newton(A.T @ A), "nntk_hessian": newton(H)}
    numbers = {
        "hessian/lambda_min": values[0],
        "hessian/lambda_max": values[-1],
        "hessian/damped_lambda_min": torch.linalg.eigvalsh(H + damping * torch.diag(D))[0],
        "hessian/negative_fraction": (values < -1e-12).double().mean(),
        "hessian/positive_definite": torch.linalg.eigvalsh(H + damping * torch.diag(D))[0] > 0,
        "hessian/trace": values.sum(),
        "nntk_hessian/difference": torch.linalg.matrix_norm(
            kernels["nntk_hessian"] - kernels["nntk"], ord=2
        ),
    }
    for name, kernel in kernels.items():
        eigenvalues = torch.linalg.eigvalsh(kernel)
        numbers[f"{name}/lambda_min"] = eigenvalues[0]
        numbers[f"{name}/lambda_max"] = eigenvalues[-1]
        numbers[f"{name}/condition_number"] = eigenvalues.abs().max() / eigenvalues.abs().min()
    return {key: float(value) for key, value in numbers.items()}


def answered(questions, answer):
    """What a generator returns whose questions are answered."""
    try:
        question = next(questions)
        while True:
            question = questions.send(answer(question))
    except StopIteration as end:
        return end.value


def bits(thing):
    """Nested containers of tensors as something that compares bit for bit."""
    if isinstance(thing, torch.Tensor):
        return thing.detach().numpy().tobytes()
    if isinstance(thing, np.ndarray):
        return thing.tobytes()
    if isinstance(thing, dict):
        return {key: bits(value) for key, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [bits(value) for value in thing]
    return repr(thing)


OPTIMIZERS = {
    "adam": ADAM,
    "sgd": lambda params: torch.optim.SGD(params, lr=1e-2, momentum=0.9),
    "lbfgs": lambda params: torch.optim.LBFGS(params, max_iter=3),
    "newton": RegNewton,
}
