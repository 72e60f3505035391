"""A device that a machine without one can test with: numbers on the CPU, which PyTorch is told are
on ``meta``.

As on a graphics card, tensors of the CPU may not be mixed with its own, but for single numbers and
for indices, and reading a number means waiting for it. `Device.waits` counts these.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

OTHER = torch.device("meta")

WAITS = {"_local_scalar_dense", "equal", "nonzero", "_unique2", "unique_dim", "bincount"}
"""Operations whose result, or its shape, is a number that depends on others."""

INDICES = {"index", "index_put_", "index_put"}
"""Operations to which a graphics card takes indices that are on the CPU."""


MATMUL = {torch.matmul, Tensor.matmul, Tensor.__matmul__}


class Elsewhere(Tensor):
    """Holds numbers on the CPU, and says that they are elsewhere."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        made: Elsewhere = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=OTHER,
            requires_grad=False,
        )
        made.held = held
        return made

    def tolist(self) -> Any:
        Device.waits += 1
        return self.held.tolist()

    def __repr__(self) -> str:
        return f"Elsewhere({self.held})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in MATMUL and args[0].ndim == 1 and args[1].ndim == 2:
            # PyTorch makes one row of it and takes that away in place, which no wrapper sees.
            return torch.mv(args[1].T, args[0])
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return call(func, args, kwargs)


class _Made(TorchFunctionMode):
    """``torch.tensor`` reads no numbers for ``meta``: they are made on the CPU, and moved."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and kwargs.get("device") == OTHER:
            return torch.tensor(*args, **kwargs | {"device": "cpu"}).to(OTHER)
        return func(*args, **kwargs)


class Device(TorchDispatchMode):
    """Within it ``device="meta"`` holds numbers.

    Attributes:
        waits: how often numbers were read since the last block began.
    """

    waits = 0

    def __enter__(self) -> Device:
        Device.waits = 0
        self._made = _Made()
        self._made.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._made.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return call(func, args, kwargs)


def call(func: Any, args: Any, kwargs: Any) -> Any:
    """The operation, on the numbers that its arguments hold."""
    leaves, structure = tree_flatten((args, dict(kwargs or {})))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    here = [t for t in tensors if not isinstance(t, Elsewhere)]
    there, name = len(tensors) > len(here), func._overloadpacket.__name__
    mixable = name in INDICES or name in ("_to_copy", "copy_")
    if there and not mixable and any(t.ndim > 0 for t in here):
        raise RuntimeError(f"{func}: expected all tensors to be on the same device")
    if there and name in WAITS:
        Device.waits += 1
    plain = [leaf.held if isinstance(leaf, Elsewhere) else leaf for leaf in leaves]
    plain_args, plain_kwargs = tree_unflatten(plain, structure)
    device = plain_kwargs.get("device")
    if device is not None:
        plain_kwargs["device"] = torch.device("cpu")
        there = torch.device(device) == OTHER
    elif name == "copy_":
        there = isinstance(args[0], Elsewhere)
    found = func(*plain_args, **plain_kwargs)
    known = {id(leaf.held): leaf for leaf in leaves if isinstance(leaf, Elsewhere)}
    return tree_map(lambda out: _wrapped(out, known), found) if there else found


def _wrapped(out: Any, known: dict[int, Elsewhere]) -> Any:
    if not isinstance(out, Tensor):
        return out
    return known[id(out)] if id(out) in known else Elsewhere(out)
