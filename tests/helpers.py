"""Problems and dense references that several test modules share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torch_newton import RegNewton, hessian
from torch_newton.linalg.flat import flatten, unflatten


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def assert_close(actual: Tensor, expected: Tensor, tol: float = 1e-10) -> None:
    """Equal to `tol` relative to the largest entry expected, and absolutely where that is small."""
    actual, expected = actual.detach(), expected.detach()
    torch.testing.assert_close(
        actual, expected, rtol=0.0, atol=tol * max([1.0, *expected.abs().flatten().tolist()])
    )


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two float64 tensors agree bit for bit, the sign of zero included."""
    return torch.equal(a.detach().view(torch.int64), b.detach().view(torch.int64))


def symmetric_with(eigenvalues: Sequence[float] | Tensor, seed: int = 0) -> Tensor:
    """A dense symmetric matrix of given spectrum, in a random basis."""
    values = torch.as_tensor(eigenvalues, dtype=torch.float64)
    basis, _ = torch.linalg.qr(randn(len(values), len(values), seed=seed))
    matrix = (basis * values) @ basis.T
    return (matrix + matrix.T) / 2


Function = Callable[[Sequence[Tensor]], Tensor]


def dense_hessian(function: Function, params: Sequence[Tensor]) -> Tensor:
    """The Hessian of `function`, by torch.func, over the parameters as one vector."""
    matrix: Tensor = torch.func.hessian(lambda v: function(unflatten(v, params)))(
        flatten(params).detach()
    )
    return matrix


def dense_jacobian(function: Function, params: Sequence[Tensor]) -> Tensor:
    """The Jacobian of all entries of `function`, by torch.func."""
    matrix: Tensor = torch.func.jacrev(lambda v: function(unflatten(v, params)).reshape(-1))(
        flatten(params).detach()
    )
    return matrix


@dataclass(frozen=True)
class Problem:
    """A loss of outputs of parameters, as a function that torch.func can differentiate."""

    params: list[Tensor]
    outputs: Function
    loss: Callable[[Tensor], Tensor]

    def value(self, params: Sequence[Tensor] | None = None) -> Tensor:
        return self.loss(self.outputs(self.params if params is None else params))

    def hessian(self) -> Tensor:
        return dense_hessian(self.value, self.params)

    def jacobian(self) -> Tensor:
        return dense_jacobian(self.outputs, self.params)

    def output_hessian(self) -> Tensor:
        z = self.outputs(self.params).detach()
        matrix: Tensor = torch.func.hessian(lambda v: self.loss(v.view(z.shape)))(z.reshape(-1))
        return matrix

    def gauss_newton(self) -> Tensor:
        J = self.jacobian()
        return J.T @ self.output_hessian() @ J


def problem_of(model: nn.Module, inputs: Tensor, loss: Callable[[Tensor], Tensor]) -> Problem:
    """A module's loss; its parameters are those that require a gradient."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    params: list[Tensor] = [p for p in model.parameters() if p.requires_grad]

    def outputs(values: Sequence[Tensor]) -> Tensor:
        result: Tensor = torch.func.functional_call(
            model, dict(zip(names, values, strict=True)), (inputs,)
        )
        return result

    return Problem(params, outputs, loss)


def mlp(*sizes: int, seed: int = 0) -> nn.Sequential:
    """A tanh network with Gaussian weights of PyTorch's usual size, the same for each seed."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs, dtype=torch.float64), nn.Tanh()]
    model = nn.Sequential(*layers[:-1])
    random = generator(seed)
    with torch.no_grad():
        for param in model.parameters():
            param.normal_(0.0, 1 / math.sqrt(param.shape[-1]), generator=random)
    return model


def regression(*sizes: int, rows: int = 12, seed: int = 0) -> Problem:
    """Mean squared error of a small network on random data."""
    x = randn(rows, sizes[0], seed=seed + 1)
    y = randn(rows, sizes[-1], seed=seed + 2)
    return problem_of(mlp(*sizes, seed=seed), x, lambda z: nn.functional.mse_loss(z, y))


def pinn_residual_reference(
    model: nn.Module, points: Tensor, forcing: Tensor
) -> Callable[[Sequence[Tensor]], Tensor]:
    """The residual Laplacian(u) - forcing by torch.func, as a function of the parameters."""
    names = [name for name, _ in model.named_parameters()]

    def residual(params: Sequence[Tensor]) -> Tensor:
        weights = dict(zip(names, params, strict=True))

        def u(point: Tensor) -> Tensor:
            value: Tensor = torch.func.functional_call(model, weights, (point,))
            return value.squeeze()

        laplacian = torch.func.vmap(lambda p: torch.func.hessian(u)(p).trace())
        return laplacian(points) - forcing

    return residual


def pinn_residual(model: nn.Module, points: Tensor, forcing: Tensor) -> Tensor:
    """The same as everybody writes it, with nested autograd.grad."""
    points = points.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(points).sum(), points, create_graph=True)
    second = [
        torch.autograd.grad(slope[:, i].sum(), points, create_graph=True)[0][:, i]
        for i in range(points.shape[1])
    ]
    return sum(second[1:], second[0]) - forcing


def closure_of(
    optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor]
) -> Callable[[], Tensor]:
    """The closure that everybody writes."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return closure


def newton(params: object, **options: object) -> RegNewton:
    """RegNewton with plain conjugate gradients unless said otherwise."""
    return RegNewton(params, **{"preconditioner": None, **options})  # type: ignore[arg-type]


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The least-squares slope of log y against log x."""
    u = torch.tensor(x, dtype=torch.float64).log()
    v = torch.tensor(y, dtype=torch.float64).log()
    u = u - u.mean()
    return float((u @ v) / (u @ u))


@dataclass(frozen=True)
class Shallow:
    """The network of theory: N^-beta sum_i c_i tanh(w_i x + eta_i), loss |f - y|^2 / (2 M)."""

    c: Tensor
    w: Tensor
    eta: Tensor
    x: Tensor
    y: Tensor
    beta: float

    @classmethod
    def draw(cls, width: int, x: Tensor, y: Tensor, beta: float, seed: int) -> Shallow:
        random = generator(seed)
        w = torch.randn(width, generator=random, dtype=torch.float64)
        eta = torch.randn(width, generator=random, dtype=torch.float64)
        c = 2 * torch.rand(width, generator=random, dtype=torch.float64) - 1
        return cls(c.requires_grad_(), w.requires_grad_(), eta.requires_grad_(), x, y, beta)

    @property
    def params(self) -> list[Tensor]:
        return [self.c, self.w, self.eta]

    def outputs(self, params: Sequence[Tensor] | None = None) -> Tensor:
        c, w, eta = self.params if params is None else params
        return len(c) ** -self.beta * torch.tanh(self.x[:, None] * w + eta) @ c

    def loss(self, outputs: Tensor) -> Tensor:
        return (outputs - self.y).square().sum() / (2 * len(self.y))

    def problem(self) -> Problem:
        return Problem(self.params, self.outputs, self.loss)

    def indefinite_part(self) -> Tensor:
        """S, block by block over the units in closed form: N x 3 x 3, ordered (c, w, eta)."""
        with torch.no_grad():
            residual = self.outputs() - self.y
            tanh = torch.tanh(self.x[:, None] * self.w + self.eta)
            first, second = 1 - tanh**2, -2 * tanh * (1 - tanh**2)
            rows = torch.stack([self.x, torch.ones_like(self.x)], 1)
            a = torch.einsum("m,mi,mk->ik", residual, first, rows) / len(self.x)
            B = torch.einsum("m,mi,mk,ml->ikl", residual, second, rows, rows) / len(self.x)
            blocks = torch.zeros(len(self.c), 3, 3, dtype=torch.float64)
            blocks[:, 0, 1:] = blocks[:, 1:, 0] = a
            blocks[:, 1:, 1:] = self.c[:, None, None] * B
            return len(self.c) ** -self.beta * blocks

    def negative_eigenvalues(self) -> int:
        matrix = hessian(self.loss(self.outputs()), self.params).dense()
        return int((torch.linalg.eigvalsh(matrix) < 0).sum())


TALLY: dict[str, list[int]] = {}
"""What the tests of robustness have tried, and how often it went well; printed at the end."""


def tally(what: str, tried: int, passed: int) -> None:
    """Count `tried` cases of `what`, of which `passed` were as they shall be."""
    counts = TALLY.setdefault(what, [0, 0])
    counts[0] += tried
    counts[1] += passed
