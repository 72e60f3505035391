"""When a step puts the exact Hessian to the test, and what it says where that fails."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node

from ..autodiff.nodes import is_custom, kinds, reachable, saved

GROWTH = 4
"""By what factor the number of exact steps grows between two tests of one graph. A second
derivative that is wrong is wrong at the first step, and the later tests are for values at which it
becomes so. A test costs about eight evaluations of the closure, half a step: with a factor of 4
that is 8 % of twenty steps and 1 % of three hundred."""

GRAPHS = 8
"""Kinds of graphs that are tested when they first occur. A graph with random depth has a new one
every so often, and would be tested for ever."""


@dataclass(frozen=True)
class Verified:
    """What is remembered of the tests.

    Attributes:
        steps: steps with the exact Hessian so far.
        graphs: the kinds of graphs that were tested.
    """

    steps: int = 0
    graphs: tuple[str, ...] = ()

    def due(self, graph: str) -> bool:
        """Whether the next step with the exact Hessian should test it: at steps 1, 4, 16, ...,
        and where the graph is of a new kind.
        """
        if graph not in self.graphs and len(self.graphs) < GRAPHS:
            return True
        number = self.steps + 1
        while number % GROWTH == 0:
            number //= GROWTH
        return number == 1

    def after(self, graph: str) -> Verified:
        """The memory after such a step."""
        new = graph not in self.graphs and len(self.graphs) < GRAPHS
        return Verified(self.steps + 1, (*self.graphs, graph) if new else self.graphs)

    def numbers(self) -> dict[str, Any]:
        """As numbers and keys, the form in which a checkpoint holds it."""
        return {"steps": self.steps, "graphs": dict.fromkeys(self.graphs, True)}

    @classmethod
    def from_numbers(cls, numbers: Mapping[str, Any]) -> Verified:
        """The inverse of `numbers`."""
        return cls(numbers["steps"], tuple(numbers["graphs"]))


def kind_of(loss: Tensor) -> str:
    """A name for the graph of a loss, the same for graphs of the same operations."""
    counts = sorted(kinds([loss.grad_fn] if loss.grad_fn is not None else []).items())
    return f"{zlib.crc32(repr(counts).encode()):08x}"


def wrong(loss: Tensor) -> str:
    """What to say where the Hessian of this loss is wrong and differences of gradients are not."""
    return (
        "the second derivative that autograd computes is not the derivative of the gradient"
        f"{_suspected(loss)}."
    )


def no_potential(loss: Tensor) -> str:
    """What to say where the gradient of this loss has no symmetric derivative."""
    return (
        "the gradient that autograd computes is not the gradient of any function: its derivative "
        f"is not symmetric{_suspected(loss)}, and steps that are solved with it are not Newton's"
    )


def _suspected(loss: Tensor) -> str:
    """Which operations may be the cause, and what to do about it."""
    nodes = reachable([loss.grad_fn] if loss.grad_fn is not None else [])
    found = sorted({cure for node in nodes if (cure := _cure(node)) is not None})
    return f" ({'; '.join(found)})" if found else ""


def _cure(node: Node) -> str | None:
    name = node.name()
    if name == "WeightNormInterfaceBackward0":
        return (
            "PyTorch's fused weight_norm has a wrong second derivative: compute the weight as "
            "g * v / torch.linalg.vector_norm(v, dim=1, keepdim=True)"
        )
    if name.startswith("EmbeddingBackward") or name.startswith("EmbeddingBagBackward"):
        if not saved(node, "scale_grad_by_freq"):
            return None
        return (
            "an embedding with scale_grad_by_freq=True divides its gradient: make it with "
            "scale_grad_by_freq=False"
        )
    if is_custom(node):
        return (
            f"the torch.autograd.Function of {name} may be the cause: write its backward pass in "
            "terms of tensors that autograd can follow, and try torch.autograd.gradgradcheck"
        )
    return None
