"""The mean square in other words: one loss, for which Gauss-Newton must be the same matrix."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.helpers import mlp, randn
from tests.trust.architectures.build import fit
from tests.trust.architectures.case import Case, Criterion

Y = randn(10, 2, seed=3)


def case(name: str, spelled: Criterion, plain: Criterion | None = None) -> Case:
    """A spelling of the mean square, or of `plain`."""

    def make():
        criterion = plain or (lambda z: F.mse_loss(z, Y))
        return fit(mlp(3, 4, 2), randn(10, 3, seed=2), criterion=criterion, loss=spelled)

    return Case(f"mean square, {name}", make)


def halves(z: Tensor) -> Tensor:
    return (z - Y).square().sum() / 2


def loop(z: Tensor) -> Tensor:
    total = z.new_zeros(())
    for row, target in zip(z, Y, strict=True):
        total = total + ((row - target) ** 2).mean()
    return total / len(z)


A = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
KEPT = torch.arange(20).view(10, 2) % 3 != 0

CASES = [
    case("** 2", lambda z: ((z - Y) ** 2).mean()),
    case("square", lambda z: torch.square(z - Y).mean()),
    case("pow(2)", lambda z: (z - Y).pow(2).mean()),
    case("r * r", lambda z: ((r := z - Y) * r).mean()),
    case("twice r", lambda z: ((z - Y) * (z - Y)).mean()),
    case("sum over numel", lambda z: ((z - Y) ** 2).sum() / 20),
    case("over both axes", lambda z: ((z - Y) ** 2).sum(1).mean() / 2),
    case("reduction none", lambda z: F.mse_loss(z, Y, reduction="none").mean()),
    case("half", lambda z: 0.5 * ((z - Y) ** 2).sum(), plain=halves),
    case("norm squared", lambda z: (z - Y).norm() ** 2 / 20),
    case("linalg.norm squared", lambda z: torch.linalg.norm(z - Y) ** 2 / 20),
    case("dist squared", lambda z: torch.dist(z, Y) ** 2 / 20),
    case(
        "pairwise_distance squared",
        lambda z: F.pairwise_distance(z, Y, eps=0).square().mean() / 2,
    ),
    case("dot", lambda z: (r := (z - Y).flatten()).dot(r) / 20),
    case("r @ r", lambda z: (r := (z - Y).flatten()) @ r / 20),
    case("r.T @ r", lambda z: ((r := (z - Y).reshape(-1, 1)).T @ r)[0, 0] / 20),
    case("inner", lambda z: torch.inner(r := (z - Y).flatten(), r) / 20),
    case("trace", lambda z: ((r := z - Y) @ r.T).trace() / 20),
    case("bmm", lambda z: torch.bmm((r := z - Y)[:, None], r[:, :, None]).mean() / 2),
    case("einsum ij,ij->", lambda z: torch.einsum("ij,ij->", r := z - Y, r) / 20),
    case("einsum ij,ij->i", lambda z: torch.einsum("ij,ij->i", r := z - Y, r).mean() / 2),
    case("pow of a tensor", lambda z: (z - Y).pow(torch.tensor(2.0)).mean()),
    case("float_power", lambda z: torch.float_power(z - Y, 2).mean()),
    case("abs squared", lambda z: ((z - Y).abs() ** 2).mean()),
    case(
        "where",
        lambda z: torch.where(KEPT, (z - Y) ** 2, torch.zeros(())).sum(),
        lambda z: (z - Y)[KEPT].square().sum(),
    ),
    case(
        "masked_select",
        lambda z: ((z - Y) ** 2).masked_select(KEPT).sum(),
        lambda z: (z - Y)[KEPT].square().sum(),
    ),
    case(
        "mask by index",
        lambda z: (z - Y)[KEPT].square().sum(),
        plain=lambda z: (z - Y)[KEPT].square().sum(),
    ),
    case(
        "mask by a product",
        lambda z: (KEPT * (z - Y) ** 2).sum(),
        plain=lambda z: (z - Y)[KEPT].square().sum(),
    ),
    case(
        "nanmean",
        lambda z: torch.where(KEPT, (z - Y) ** 2, torch.nan).nanmean(),
        lambda z: (z - Y)[KEPT].square().mean(),
    ),
    case(
        "var",
        lambda z: (z - Y).var(),
        lambda z: ((z - Y) - (z - Y).mean()).square().sum() / 19,
    ),
    case("addcmul", lambda z: torch.zeros(10, 2).addcmul(r := z - Y, r).mean()),
    case("multiplied out", lambda z: (z**2 - 2 * z * Y + Y**2).mean()),
    case("cumsum", lambda z: ((z - Y) ** 2).flatten().cumsum(0)[-1] / 20),
    case(
        "stack of scalars",
        lambda z: torch.stack([((z - Y)[i] ** 2).mean() for i in range(10)]).mean(),
    ),
    case("loop", loop),
    case("split", lambda z: sum((a**2).sum() for a in (z - Y).split(3)) / 20),
    case(
        "quadratic form",
        lambda z: torch.einsum("bi,ij,bj->b", r := z - Y, A, r).mean(),
        lambda z: ((z - Y) @ A * (z - Y)).sum(1).mean(),
    ),
    case(
        "Cholesky factor",
        lambda z: ((z - Y) @ torch.linalg.cholesky(A)).square().sum(1).mean(),
        plain=lambda z: ((z - Y) @ A * (z - Y)).sum(1).mean(),
    ),
    case("concatenated", lambda z: torch.cat([z[:5] - Y[:5], z[5:] - Y[5:]]).square().mean()),
    case("exponent of the sum", lambda z: ((z - Y) ** 2).sum().log().exp() / 20),
]
