"""Operations and bytes of a step, counted, beside those that .docs/pages/reference/cost.md states.

python -m examples.benchmarks.cost

One quantity at a time is varied over two decades: samples M, parameters P, outputs C, iterations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from torch_newton import RegNewton, Step

aten = torch.ops.aten


def _addmm(args: tuple[Any, ...]) -> int:
    (m, k), n = args[1].shape, args[2].shape[1]
    return 2 * m * k * n


OPERATIONS: dict[Any, Callable[[tuple[Any, ...]], int]] = {
    aten.addmm_: _addmm,
    aten.mv: lambda args: 2 * args[0].numel(),
    aten.linalg_cholesky_ex: lambda args: args[0].shape[0] ** 3 // 3,
    aten.cholesky_solve: lambda args: 2 * args[1].shape[0] ** 2 * args[0].shape[1],
}
"""Of what PyTorch's own counter leaves out; additions and multiplications count one each."""

VIEWS = ("view", "t", "transpose", "expand", "detach", "slice", "select", "unsqueeze", "squeeze",
         "split", "split_with_sizes", "_unsafe_view", "as_strided", "permute", "alias", "diagonal",
         "unbind", "_reshape_alias")  # fmt: skip


class Counter(TorchDispatchMode):
    """Operations of products and factorisations, and bytes that all operations read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in OPERATIONS:
            self.operations += OPERATIONS[packet](args)
        elif packet in flop_registry:
            self.operations += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        if packet.__name__ not in VIEWS:
            tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
            self.bytes += sum(tensor.nbytes for tensor in tensors)
        return out


@dataclass(frozen=True)
class Problem:
    """A network of two hidden layers, fitted to C outputs of M samples.

    Attributes:
        samples: M.
        width: of both layers.
        outputs: C.
        options: of the optimizer.
    """

    samples: int
    width: int
    outputs: int
    options: dict[str, Any]

    @property
    def rows(self) -> int:
        """R."""
        return self.samples * self.outputs

    @property
    def weights(self) -> list[tuple[int, int]]:
        """The shapes of the weight matrices, a x b."""
        return [(self.width, 8), (self.width, self.width), (self.outputs, self.width)]

    @property
    def size(self) -> int:
        """P."""
        return sum(a * b + a for a, b in self.weights)

    @contextmanager
    def counted(self) -> Iterator[tuple[Counter, Step]]:
        """The second step, when nothing is tested for the first time."""
        torch.manual_seed(0)
        # In double precision, in which everything is computed then: single would be changed to it.
        kind = {"dtype": torch.float64}
        layers = [nn.Linear(b, a, **kind) for a, b in self.weights]
        model = nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])
        x = torch.randn(self.samples, 8, **kind)
        y = torch.randn(self.samples, self.outputs, **kind)
        optimizer = RegNewton(model.parameters(), **self.options)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)
        with Counter() as counter:
            optimizer.step(closure)
        assert optimizer.last_step is not None
        yield counter, optimizer.last_step


PLAIN = {"curvature": "hessian", "preconditioner": None, "correction": False, "cg_tol": 0.0}
DIRECT = {"curvature": "gauss_newton", "scaling": None, "correction": False}

SWEEPS: dict[str, list[Problem]] = {
    "iterations, samples": [
        Problem(m, 40, 1, PLAIN | {"cg_max_iter": 10}) for m in (100, 1000, 10000)
    ],
    "iterations, parameters": [
        Problem(200, width, 1, PLAIN | {"cg_max_iter": 10}) for width in (50, 160, 500)
    ],
    "iterations, outputs": [
        Problem(200, 100, c, PLAIN | {"cg_max_iter": 10}) for c in (1, 10, 100)
    ],
    "iterations, their number": [
        Problem(200, 100, 1, PLAIN | {"cg_max_iter": n}) for n in (3, 30, 300)
    ],
    "R x R, samples": [Problem(m, 100, 1, DIRECT) for m in (30, 300, 3000)],
    "R x R, parameters": [Problem(300, width, 1, DIRECT) for width in (50, 160, 500)],
    "R x R, outputs": [Problem(30, 100, c, DIRECT) for c in (1, 10, 100)],
    "P x P, samples": [Problem(m, 20, 1, DIRECT) for m in (1000, 10000, 100000)],
    "P x P, parameters": [Problem(5000, width, 1, DIRECT) for width in (10, 20, 40)],
}


def model_of(problem: Problem, step: Step) -> tuple[float, float]:
    """Operations and numbers moved, as .docs/pages/reference/cost.md states them."""
    M, C, R, P = problem.samples, problem.outputs, problem.rows, problem.size
    sides = sum(a + b for a, b in problem.weights)
    activations = M * sides
    evaluations = step.closure_calls
    operations = 2.0 * M * P * evaluations + 4.0 * M * P
    moved = evaluations * (10 * P + 3 * activations) + 20 * P
    if step.path.name == "PLAIN":
        operations += 12.0 * M * P * step.products
        return operations, moved + step.products * (50 * P + 17 * activations)
    operations += 2.0 * M * P * C + 4.0 * R * P  # reading and its check
    moved += 15 * P + 6 * R * sides
    n = min(R, P)
    operations += step.attempts * (n**3 / 3 + 2 * R * P)
    moved += step.attempts * (5 * n**2 + 3 * R * sides)
    if R <= P:
        pairs = sum(min(a * b, a + b) for a, b in problem.weights)
        operations += 2 * 5 / 8 * R**2 * pairs
        moved += 6 * R**2 * len(problem.weights)
    else:
        operations += 2 * 5 / 8 * P**2 * R
        moved += 8 * R * P
    return operations, moved


def main() -> None:
    """Print counted numbers and their ratios to the model."""
    print(
        f"{'varied':26}{'M':>7}{'P':>8}{'C':>5}{'products':>9}   operations (ratio)  bytes (ratio)"
    )
    for name, problems in SWEEPS.items():
        for problem in problems:
            with problem.counted() as (counter, step):
                operations, numbers = model_of(problem, step)
            print(
                f"{name:26}{problem.samples:7d}{problem.size:8d}{problem.outputs:5d}"
                f"{step.products:9d}   {counter.operations:8.1e} "
                f"({counter.operations / operations:4.2f})     {counter.bytes:8.1e} "
                f"({counter.bytes / numbers / 8:4.2f})  {step.path.name}",
                flush=True,
            )


if __name__ == "__main__":
    main()
