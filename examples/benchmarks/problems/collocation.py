"""A physics-informed problem: an equation inside, conditions on the boundary, one loss.

    loss = mean(equation^2) + sum_k weight_k mean(condition_k^2)

(Raissi, Perdikaris and Karniadakis, J. Comput. Phys. 378 (2019), 686-707.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from ..problem import Instance, Rows, relative_error
from .derivatives import Derivatives, Forward, Nested

Equation = Callable[[Derivatives], Tensor]
TEST_POINTS = 2000


@dataclass(frozen=True)
class Condition:
    """value: u(x) = values; slope: du/dx_1 (x) = values; periodic: u(x) = u(other)."""

    kind: Literal["value", "slope", "periodic"]
    x: Tensor
    values: Tensor
    other: Tensor | None = None
    weight: float = 1.0

    def residual(self, net: Callable[[Tensor], Tensor]) -> Tensor:
        if self.kind == "slope":
            return Nested(net, self.x).d(1) - self.values
        if self.other is not None:
            return net(self.x) - net(self.other)
        return net(self.x) - self.values


@dataclass(frozen=True)
class Collocation:
    """Points, equation and conditions of one seed, with the exact (or reference) solution."""

    equation: Equation
    interior: Tensor
    conditions: list[Condition]
    exact: Callable[[Tensor], Tensor]
    test: Tensor = field(repr=False)

    def loss(self, net: nn.Module) -> Tensor:
        loss = self.equation(Nested(net, self.interior)).square().mean()
        for condition in self.conditions:
            loss = loss + condition.weight * condition.residual(net).square().mean()
        return loss

    def instance(self, net: nn.Module) -> Instance:
        """Error = ||net - exact|| / ||exact|| on points that training never sees."""
        reference = self.exact(self.test)

        def error() -> float:
            with torch.no_grad():
                return relative_error(net(self.test), reference)

        return Instance(
            params=list(net.parameters()),
            loss=lambda: self.loss(net),
            rows=self.rows(net),
            error=error,
        )

    def rows(self, net: nn.Module) -> Rows:
        """Every term's points as rows of one table, scaled so that the mean of squares is the loss.

        A term of weight w with n of R rows gets the factor sqrt(w R / n).
        """
        blocks: list[tuple[int, Tensor, Tensor, Tensor, float]] = []
        zeros = torch.zeros(len(self.interior), 1)
        blocks.append((0, self.interior, self.interior, zeros, 1.0))
        for c in self.conditions:
            other = c.x if c.other is None else c.other
            blocks.append((CollocationRows.KINDS.index(c.kind), c.x, other, c.values, c.weight))
        total = sum(len(block[1]) for block in blocks)
        selectors, scales = [], []
        for kind, x, _, _, weight in blocks:
            selectors.append(torch.eye(len(CollocationRows.KINDS))[kind].expand(len(x), -1))
            scales.append(torch.full((len(x), 1), (weight * total / len(x)) ** 0.5))
        kinds = frozenset(CollocationRows.KINDS[block[0]] for block in blocks)
        module = CollocationRows(net, self.equation, kinds)
        columns = [torch.cat([block[i] for block in blocks]) for i in (1, 2, 3)]
        return Rows(module, [*columns, torch.cat(selectors), torch.cat(scales)])


class CollocationRows(nn.Module):
    """One residual per row, whatever its kind: the kinds are blended by a 0/1 selector."""

    KINDS = ("equation", "value", "slope", "periodic")

    def __init__(self, net: nn.Module, equation: Equation, kinds: frozenset[str]) -> None:
        super().__init__()
        self.net, self.equation, self.kinds = net, equation, kinds

    def forward(
        self, x: Tensor, other: Tensor, values: Tensor, selector: Tensor, scale: Tensor
    ) -> Tensor:
        field = Forward(self.net, x)
        residual = selector[..., 0:1] * self.equation(field)
        if "value" in self.kinds:
            residual = residual + selector[..., 1:2] * (field.u - values)
        if "slope" in self.kinds:
            residual = residual + selector[..., 2:3] * (field.d(1) - values)
        if "periodic" in self.kinds:
            residual = residual + selector[..., 3:4] * (field.u - self.net(other))
        return scale * residual
