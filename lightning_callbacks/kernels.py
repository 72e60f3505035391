"""The tangent kernels of a loss, NTK and NNTK, in numbers (see `torch_newton.kernels`)."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from torch_newton import Eigenvalue, KernelSpectrum, LinearOperator, kernel_spectrum
from torch_newton.kernels.newton import newton_spectrum
from torch_newton.kernels.rows import Rows

from .hessian import Numbers, Spectrum

KERNELS = ("ntk", "nntk", "nntk_hessian")


@dataclass(frozen=True)
class Kernels:
    """The kernels asked for.

    Attributes:
        spectra: by the name of the kernel.
        difference: spectral norm of the NNTK of the true Hessian less that in Gauss-Newton form,
            where both were asked for and formed.
    """

    spectra: dict[str, KernelSpectrum]
    difference: float | None = None

    def numbers(self) -> Numbers:
        """The logged numbers."""
        numbers: Numbers = {}
        for name, spectrum in self.spectra.items():
            numbers |= {
                f"{name}/lambda_min": spectrum.smallest.value,
                f"{name}/lambda_min_error": spectrum.smallest.error_bound,
                f"{name}/lambda_max": spectrum.largest.value,
                f"{name}/lambda_max_error": spectrum.largest.error_bound,
                f"{name}/condition_number": spectrum.condition_number,
            }
        if self.difference is not None:
            numbers["nntk_hessian/difference"] = self.difference
        return numbers


def kernels_of(
    rows: Rows,
    damping: float,
    epsilon: float,
    wanted: Collection[str],
    *,
    max_rows: int,
    products: int,
    hessian: tuple[LinearOperator, Spectrum | None] | None = None,
    gram: Tensor | None = None,
) -> Kernels:
    """The spectra of some of `KERNELS`.

    Args:
        rows: of J.
        damping: lambda, absolute.
        epsilon: unit of rounding of the arithmetic behind J.
        wanted: names of kernels.
        max_rows: all eigenvalues are computed where the smaller of R and P is at most this.
        products: Lanczos steps at most beyond that.
        hessian: H and its spectrum, for ``nntk_hessian``.
        gram: the smaller Gram matrix of the weighted rows, where it is at hand.
    """
    spectra: dict[str, KernelSpectrum] = {}
    weighted: KernelSpectrum | None = None
    limits = {"epsilon": epsilon, "max_size": max_rows, "products": products}
    if "nntk" in wanted or rows.scale is not None:
        weighted = kernel_spectrum(rows.weighted, rank=rows.rank, gram=gram, **limits)  # type: ignore[arg-type]
    if "ntk" in wanted:
        if weighted is not None and rows.scale is not None:
            spectra["ntk"] = weighted.scaled(rows.scale**-2)
        else:
            spectra["ntk"] = kernel_spectrum(rows.plain, **limits)  # type: ignore[arg-type]
    if "nntk" in wanted and weighted is not None:
        spectra["nntk"] = weighted.newton(damping)
    if "nntk_hessian" not in wanted:
        return Kernels(spectra)
    if hessian is None or hessian[1] is None:
        spectra["nntk_hessian"] = UNKNOWN
        return Kernels(spectra, math.nan if "nntk" in wanted else None)
    H, spectrum = hessian
    known = None if spectrum is None else spectrum.decomposition
    spectra["nntk_hessian"], exact = newton_spectrum(
        rows.weighted,
        H,
        damping,
        rank=rows.rank,
        decomposition=known,
        **limits,  # type: ignore[arg-type]
    )
    if "nntk" not in wanted:
        return Kernels(spectra)
    difference = math.nan if exact is None else _difference(rows, damping, exact)
    return Kernels(spectra, difference)


UNKNOWN = KernelSpectrum(
    Eigenvalue(math.nan, math.inf, False), Eigenvalue(math.nan, math.inf, False)
)
"""What is known of a kernel that is not finite."""


def unknown_kernels(wanted: Collection[str]) -> Kernels:
    """The kernels of a loss that is not finite."""
    names = [name for name in KERNELS if name in wanted]
    both = {"nntk", "nntk_hessian"} <= set(wanted)
    return Kernels(dict.fromkeys(names, UNKNOWN), math.nan if both else None)


def _difference(rows: Rows, damping: float, exact: Tensor) -> float:
    r"""The norm of NNTK - K (K + lambda I)^{-1}, K being the weighted Gram matrix."""
    K = rows.weighted.gram().double()
    values, vectors = torch.linalg.eigh((K + K.T) / 2)
    values = torch.where(values > 0, values / (values + damping), torch.zeros_like(values))
    return float(torch.linalg.matrix_norm(exact - (vectors * values) @ vectors.T, ord=2))
