"""What a step moves, and must put back exactly when it is refused or interrupted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
import torch.overrides
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from ..linalg.flat import flatten
from .accumulation import BackwardCalls
from .random_state import RandomState


@dataclass(frozen=True)
class Modes:
    """PyTorch's modes, of which an interrupt between two instructions may leave one behind.

    Of 1,197 interrupts at all lines of a step 234 do: the closure would then never again call the
    real ``backward``.
    """

    functions: int
    grad: bool

    @classmethod
    def now(cls) -> Modes:
        """Look at the modes of this thread."""
        return cls(torch._C._len_torch_function_stack(), torch.is_grad_enabled())

    def restore(self) -> None:
        """Leave those that were entered since."""
        while torch._C._len_torch_function_stack() > self.functions:
            torch.overrides._pop_mode()  # type: ignore[no-untyped-call]
        torch.set_grad_enabled(self.grad)


@dataclass(frozen=True)
class Point:
    """Where the parameters stood, bit for bit."""

    params: Sequence[Tensor]
    vector: Tensor
    values: Sequence[Tensor]

    @classmethod
    def now(cls, params: Sequence[Tensor]) -> Point:
        """Remember the parameters' present values."""
        vector = flatten(param.detach() for param in params)
        # Views, wherever they begin: they are only copied from.
        pieces = vector.split_with_sizes([param.numel() for param in params])
        values = [piece.view(param.shape) for piece, param in zip(pieces, params, strict=True)]
        return cls(list(params), vector, values)

    def move(self, direction: Tensor) -> None:
        """Put the parameters at this point plus `direction`.

        Written through ``.data``: the graph of the loss, which saw the parameters at this point,
        stays valid for further products once they are back.
        """
        pieces = direction.split_with_sizes([value.numel() for value in self.values])
        for param, value, piece in zip(self.params, self.values, pieces, strict=True):
            param.data.copy_(value).add_(piece.view(value.shape))

    def restore(self) -> None:
        """Put the parameters back."""
        for param, value in zip(self.params, self.values, strict=True):
            if param.shape != value.shape:  # the closure has given it other data
                param.data = value.clone()
            else:
                param.data.copy_(value)

    def unmoved(self) -> bool:
        """Whether the parameters are still here, bit for bit but for the sign of zero."""
        return all(
            torch.equal(param.detach(), value)
            for param, value in zip(self.params, self.values, strict=True)
        )

    def leave(self) -> None:
        """Tell autograd that the parameters have moved, as any in-place update does.

        A graph that somebody still holds over the old values then raises instead of giving
        wrong derivatives.
        """
        torch.autograd.graph.increment_version(list(self.params))


class Gradients:
    """What the parameters' ``.grad`` held: the same tensors, with the same values."""

    def __init__(self, params: Sequence[Tensor]) -> None:
        self._kept = [
            (param, param.grad, None if param.grad is None else param.grad.detach().clone())
            for param in params
        ]

    def restore(self) -> None:
        """Put them back."""
        for param, grad, value in self._kept:
            if grad is not None and value is not None:
                grad.data.copy_(value)
            param.grad = grad


class Buffers:
    """The buffers of every module that runs inside the block, as they were before it did.

    So a batch normalisation counts each batch once, however often a step evaluates it. A module
    is noted when it or one that contains it is called.

    Args:
        on_module: called with each module that the block calls.
    """

    def __init__(self, on_module: Callable[[nn.Module], None] | None = None) -> None:
        self._before: dict[tuple[nn.Module, str], tuple[Tensor, Tensor]] = {}
        self._noted: set[nn.Module] = set()
        self._on_module = on_module
        self._hook: RemovableHandle | None = None

    def __enter__(self) -> Buffers:
        self._hook = register_module_forward_pre_hook(self._called)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Note no more modules."""
        if self._hook is not None:
            self._hook.remove()

    def _called(self, module: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling():  # the module that holds the compiled one has been noted
            return
        if self._on_module is not None:
            self._on_module(module)
        if module in self._noted:
            return
        for inner in module.modules():
            if inner not in self._noted:
                self._noted.add(inner)
                self._note(inner)
        if type(module).__name__ == "OptimizedModule":
            self._pause(module)

    def _pause(self, module: nn.Module) -> None:
        """Look away while a compiled module runs, which would be compiled again for each hook."""
        self.close()

        def go_on(*args: Any) -> None:
            handle.remove()
            self.__enter__()

        handle = module.register_forward_hook(go_on, always_call=True)

    def _note(self, module: nn.Module) -> None:
        for name, buffer in module.named_buffers(recurse=False):
            self._before[module, name] = buffer, buffer.detach().clone()

    def restore(self) -> None:
        """Put the buffers back, the same tensors with the same values."""
        for (module, name), (buffer, value) in self._before.items():
            buffer.data.copy_(value)
            setattr(module, name, buffer)

    def now(self) -> Buffers:
        """The same buffers as they are at present."""
        present = Buffers()
        for module in dict.fromkeys(module for module, _ in self._before):
            present._note(module)
        return present


class Snapshot:
    """Everything that a step may change outside the optimizer, as it was before the step.

    Attributes:
        point: where the parameters stood.
        random: the random generators.
        buffers: those of the modules that the first evaluation runs.
        trial_buffers: those of the modules that the evaluation in progress runs.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        backward_calls: BackwardCalls,
        on_module: Callable[[nn.Module], None] | None = None,
    ) -> None:
        self.point: Point = Point.now(params)
        self.random: RandomState = RandomState.now(params)
        self.buffers: Buffers = Buffers(on_module)
        self.trial_buffers: Buffers = Buffers()
        self._modes = Modes.now()
        self._gradients = Gradients(params)
        self._backward_calls, self._counts = backward_calls, dict(backward_calls.counts)

    def restore(self) -> None:
        """Put everything back. It may be called again where it was itself interrupted."""
        self._modes.restore()
        self.point.restore()
        for buffers in (self.trial_buffers, self.buffers):
            buffers.close()
            buffers.restore()
        self.random.restore()
        self._gradients.restore()
        self._backward_calls.counts.update(self._counts)
