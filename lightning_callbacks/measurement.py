"""All that is measured at one point of a training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torch_newton import LinearOperator
from torch_newton.kernels.rows import KernelError, Rows, of_matrix, rows_of_loss, rows_of_outputs
from torch_newton.linalg.factored_jacobian import FactoredJacobian
from torch_newton.linalg.operators import congruent

from .config import Arguments
from .hessian import Numbers, Spectrum, hessian_spectrum, scaled_definiteness, unknown_spectrum
from .kernels import kernels_of, unknown_kernels

Say = Callable[[str], None]
"""Warns the user."""


@dataclass(frozen=True)
class Point:
    """A loss and its curvature.

    Attributes:
        gradient: P entries.
        H: the Hessian, P x P.
        damping: lambda, absolute.
        rows: reads the rows of the kernels; None where there are none.
        gram: the smaller Gram matrix of their weighted rows, where it is at hand.
        scaling: D^{-1/2}, P entries, where the damping is lambda D instead of lambda I.
    """

    gradient: Tensor
    H: LinearOperator
    damping: float
    rows: Callable[[], Rows | None]
    gram: Tensor | None = None
    scaling: Tensor | None = None


@dataclass(frozen=True)
class Measurement:
    """What was measured.

    Attributes:
        numbers: by their keys, without prefix.
        spectra: the eigenvalues, where all are known, by ``"hessian"``, ``"ntk"``, ...
    """

    numbers: Numbers
    spectra: dict[str, Tensor]


def measure(point: Point, given: Arguments, rounding: float) -> Measurement:
    """The quantities asked for; `rounding` is the unit of it where that is above the dtype's."""
    wanted = set(given.quantities)
    kernels = wanted - {"hessian", "trace"}
    epsilon = max(torch.finfo(point.gradient.dtype).eps, rounding)
    finite = bool(torch.isfinite(point.gradient).all())
    spectra: dict[str, Tensor] = {}
    spectrum = None
    if finite and wanted & {"hessian", "trace", "nntk_hessian"}:
        spectrum = hessian_spectrum(
            point.H,
            epsilon,
            exact_up_to=given.exact_up_to,
            products=given.max_products,
            with_trace="trace" in wanted,
            vectors="nntk_hessian" in wanted,
        )
    numbers = _of_hessian(spectrum, point.damping, wanted)
    if "hessian" in wanted and spectrum is not None and point.scaling is not None:
        numbers |= scaled_definiteness(
            point.H,
            spectrum,
            point.damping,
            point.scaling,
            epsilon,
            products=given.max_products,
        )
    if "hessian" in wanted and spectrum is not None and spectrum.decomposition is not None:
        spectra["hessian"] = spectrum.decomposition[0]
    if not kernels:
        return Measurement(numbers, spectra)
    if not finite:
        return Measurement(numbers | unknown_kernels(kernels).numbers(), spectra)
    rows, H, gram = point.rows(), point.H, point.gram
    if rows is not None and point.scaling is not None:
        rows, gram = _in_scaled_variables(rows, point.scaling), None
        H, spectrum = _congruent(H, spectrum, point.scaling, "nntk_hessian" in kernels)
    if rows is not None:
        found = kernels_of(
            rows,
            point.damping,
            epsilon,
            kernels,
            max_rows=given.max_rows,
            products=given.max_products,
            hessian=(H, spectrum),
            gram=gram,
        )
        numbers |= found.numbers()
        for name, kernel in found.spectra.items():
            if kernel.eigenvalues is not None:
                spectra[name] = kernel.eigenvalues
    return Measurement(numbers, spectra)


def _in_scaled_variables(rows: Rows, scaling: Tensor) -> Rows:
    """The same with D^{-1/2} multiplied into the weighted rows: then lambda D is lambda I."""
    weighted = rows.weighted.dense() * scaling
    return Rows(rows.plain, of_matrix(weighted, rows.weighted.like), None, rows.rank)


def _congruent(
    H: LinearOperator, spectrum: Spectrum | None, scaling: Tensor, wanted: bool
) -> tuple[LinearOperator, Spectrum | None]:
    """D^{-1/2} H D^{-1/2}, and as much of its spectrum as the kernels take."""
    if spectrum is not None and spectrum.matrix is not None and wanted:
        e = scaling.double()
        known = torch.linalg.eigh(e[:, None] * spectrum.matrix * e)
        spectrum = replace(spectrum, decomposition=(known[0], known[1]))
    return congruent(H, scaling), spectrum


def _of_hessian(spectrum: Spectrum | None, damping: float, wanted: set[str]) -> Numbers:
    with_trace = "trace" in wanted
    known = unknown_spectrum(with_trace) if spectrum is None else spectrum.numbers(damping)
    return {
        key: value
        for key, value in known.items()
        if ("trace" if key.startswith("hessian/trace") else "hessian") in wanted
    }


def rows_in(
    loss: Tensor, params: list[Tensor], say: Say, known: FactoredJacobian | None = None
) -> Rows | None:
    """The rows of the outputs in the graph of a loss; None, and a word, where there are none."""
    try:
        found, unrecognised = rows_of_loss(loss, params, known)
    except KernelError as error:
        say(f"no kernels are logged: {error}")
        return None
    if found is None:
        say(
            "no outputs were recognised in the graph of the loss, which begins with "
            f"{', '.join(unrecognised)}, so no kernels are logged: give CurvatureMonitor "
            "outputs=callable(module, batch) that returns the network's outputs"
        )
    elif unrecognised:
        say(
            f"parts of the loss were not recognised ({', '.join(unrecognised)}): the "
            "kernels are those of the other parts. To choose the rows yourself give "
            "CurvatureMonitor outputs=callable(module, batch)"
        )
    return found


def rows_given(outputs: Sequence[Tensor], params: list[Tensor], say: Say) -> Rows | None:
    """The rows of outputs that the user gave, one tensor a batch."""
    for tensor in outputs:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"outputs must return a tensor, not {type(tensor).__name__}")
    together = torch.cat(list(outputs)) if len(outputs) > 1 else outputs[0]
    try:
        return rows_of_outputs(together, params)
    except KernelError as error:
        say(f"no kernels are logged: {error}")
        return None
