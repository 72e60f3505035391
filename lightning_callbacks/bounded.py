"""The spectra that a limited time allows: by fewer Lanczos steps, with the bounds these leave."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torch_newton import Eigenvalue, Extremes, KernelSpectrum, LinearOperator
from torch_newton.linalg.density import density_of
from torch_newton.linalg.eigenvalues import BETWEEN_CHECKS, extremes_of
from torch_newton.linalg.lanczos import Process

from .allowance import Allowance, OutOfTimeError
from .density_within import PROBES, STEPS, density_work
from .forming import formed, small_enough
from .spectrum import FAILURES, Spectrum, dense_spectrum, known_to
from .work import Unit, Vote, Work, run

LEAST = 2
"""Products for which a spectrum is worth its evaluation: one Lanczos step for each end of it."""

TOLERANCE = 1e-6
"""Of an extreme eigenvalue, relative to the largest, at which the process ends; that of
`extreme_eigenvalues`."""

DENSITY_PRODUCTS = PROBES * STEPS
"""Those that `negative_fraction` takes by default."""

BASIS_BYTES = 2**30
"""Memory for the vectors of Lanczos processes at a time, 1 GiB: chosen as what an ordinary GPU can
spare beside a training. It holds 24 vectors of a network of 11 million in single precision."""


First = Callable[[], list[Tensor]] | None
"""Hands over `first_vector` and the product of a matrix with it, and keeps them no longer; None
where these are not known."""


@dataclass(frozen=True)
class Look:
    """How closely a matrix is looked at.

    Attributes:
        epsilon: unit of rounding of the arithmetic behind its products.
        exact_up_to: the largest size at which it is formed.
        products: Lanczos steps at most.
        vectors: whether eigenvectors are wanted of a matrix that is formed.
        asymmetry: the norm of H - H^T, by which an eigenvalue may be wrong where that is more
            than rounding.
    """

    epsilon: float
    exact_up_to: int
    products: int
    vectors: bool
    asymmetry: float = 0.0


def spectrum_within(
    H: LinearOperator,
    epsilon: float,
    allowance: Allowance,
    *,
    exact_up_to: int,
    products: int,
    vectors: bool,
    asymmetry: float = 0.0,
) -> Spectrum | None:
    """The spectrum of H in one pause: see `spectrum_work`, and `Look` for the arguments."""
    look = Look(epsilon, exact_up_to, products, vectors, asymmetry)
    return run(spectrum_work(H, look, allowance), allowance)


def spectrum_work(
    H: LinearOperator, look: Look, allowance: Allowance, first: First = None
) -> Work[Spectrum | None]:
    """The spectrum of H as `hessian_spectrum` gives it where there is time, or with fewer products.

    With fewer, one Lanczos process from a Gaussian vector gives both the extremes and the share of
    negative eigenvalues. Its bounds hold after any number of steps, and are the wider the fewer;
    and so are those of fewer processes, where `BASIS_BYTES` do not hold the vectors of all.

    Args:
        H: symmetric, P x P. Its products are timed as "product".
        look: how closely.
        allowance: the time that there is.
        first: hands over `first_vector` and H times it, where these are known.

    Returns:
        The spectrum, or None where H is not finite.

    Raises:
        OutOfTimeError: there is no time for `LEAST` products.
    """
    try:
        if H.shape[0] <= look.exact_up_to and (yield from small_enough(H, allowance)):
            matrix = yield from formed(H, allowance)
            if matrix is not None:
                return dense_spectrum(matrix, look.epsilon, look.vectors, look.asymmetry)
        product = allowance.estimate("product")
        full = allowance.plans((look.products + DENSITY_PRODUCTS) * product)
        probes = min(PROBES, _room(H) // STEPS) if full else 0
        allowance.reduced |= not full or H.shape[0] <= look.exact_up_to
        process = yield from lanczos_work(
            H, "product", allowance, look.products, decide=full, first=first
        )
        if process is None:
            return None
        extremes, rounding = _rounded(extremes_of(process, TOLERANCE), look.epsilon, look.asymmetry)
        density = density_of([process], [1.0])
        del process  # and its vectors, of which the others need as many
        if probes:
            density = (yield from density_work(H, allowance, probes)) or density
        return Spectrum(extremes, known_to(density, rounding).below(0.0), rounding)
    except FAILURES:
        return None


def extremes_within(
    H: LinearOperator,
    epsilon: float,
    allowance: Allowance,
    products: int,
    asymmetry: float = 0.0,
) -> tuple[Extremes, float] | None:
    """The extreme eigenvalues of H in one pause, and their rounding; None where H is not finite.

    The arguments and what is raised are those of `spectrum_within`.
    """
    work = extremes_work(H, Look(epsilon, 0, products, False, asymmetry), allowance)
    return run(work, allowance)


def extremes_work(
    H: LinearOperator, look: Look, allowance: Allowance
) -> Work[tuple[Extremes, float] | None]:
    """The extreme eigenvalues of H, and their rounding; None where H is not finite."""
    process = yield from lanczos_work(H, "product", allowance, look.products)
    if process is None:
        return None
    return _rounded(extremes_of(process, TOLERANCE), look.epsilon, look.asymmetry)


def kernel_within(
    K: LinearOperator, start: Tensor, epsilon: float, allowance: Allowance, products: int
) -> KernelSpectrum:
    """The extreme eigenvalues of a kernel K in one pause: see `kernel_work`."""
    return run(kernel_work(K, start, epsilon, allowance, products), allowance)


def kernel_work(
    K: LinearOperator,
    start: Tensor,
    epsilon: float,
    allowance: Allowance,
    products: int,
    guess: float = 0.0,
    name: str = "kernel",
) -> Work[KernelSpectrum]:
    """The extreme eigenvalues of a kernel K, R x R, by as many products as there is time for.

    Args:
        K: symmetric and positive semidefinite.
        start: of the Lanczos process, in the range of K where not all of it is to be seen.
        epsilon: unit of rounding of the arithmetic behind its products.
        allowance: the time that there is.
        products: Lanczos steps at most.
        guess: seconds that a product is reckoned to take before one is timed.
        name: under which its products are timed.

    Raises:
        OutOfTimeError: there is no time for `LEAST` products.
    """
    allowance.reduced = True
    work = lanczos_work(K, name, allowance, products, start, guess)
    del start  # a vector, which would be held until this ends
    process = yield from work
    if process is None:
        unknown = Eigenvalue(math.nan, math.inf, False)
        return KernelSpectrum(unknown, unknown)
    found, _ = _rounded(extremes_of(process, TOLERANCE), epsilon)
    return KernelSpectrum(found.smallest, found.largest)


def first_vector(A: LinearOperator) -> Tensor:
    """The first vector of a Lanczos process where none is given: Gaussian, of unit length."""
    random = torch.Generator().manual_seed(0)
    v = torch.randn(A.shape[0], generator=random, dtype=torch.float64).to(A.device, A.dtype)
    return v.div_(torch.linalg.vector_norm(v))


def lanczos_work(
    A: LinearOperator,
    name: str,
    allowance: Allowance,
    products: int,
    start: Tensor | None = None,
    guess: float = 0.0,
    *,
    decide: bool = False,
    first: First = None,
) -> Work[Process | None]:
    """Lanczos steps while there is time for another, and until both extremes have converged.

    Args:
        A: symmetric, n x n.
        name: under which its products are timed.
        allowance: the time that there is.
        products: at most so many.
        start: the first vector; `first_vector` where None.
        guess: seconds that a product is reckoned to take before one is timed.
        decide: whether to go on, as `extreme_eigenvalues` does, until it is decided whether an
            eigenvalue lies below a smallest one that has converged above zero.
        first: hands over the first vector, of unit length, and A times it, where known.

    Returns:
        The process; None where A is not finite.

    Raises:
        OutOfTimeError: there is no time for `LEAST` steps.
    """
    known = [] if first is None else first()
    process = Process(
        A, _capacity(A, name, allowance, products, guess), known[0] if known else start, 0
    )
    del start  # a vector, which would be held until this ends
    if known:
        process.next = known[0]  # as its product belongs to it, which to rounding another's is not
    unit = Unit(name, guess)
    # Each process goes on until all may end: a layer may communicate in a product.
    while not (yield _vote(process, decide)):
        if known:
            del known[0]  # which the process has
            process.take(known.pop())
            continue
        enough = process.steps >= LEAST
        if enough and not allowance.plans(allowance.estimate(name, guess)):
            break
        try:
            yield unit
        except OutOfTimeError:
            allowance.reduced = True
            if enough:
                break
            raise
        process.advance()
    return process if _finite(process) else None


def _vote(process: Process, decide: bool) -> Vote:
    """Whether to end a process: it must where it has no next vector."""
    must = process.finished or not _finite(process)
    looks = process.steps > 0 and process.steps % BETWEEN_CHECKS == 0
    return Vote(must or (looks and _settled(process, decide)), must)


def _finite(process: Process) -> bool:
    return process.steps == 0 or math.isfinite(process.residual)


def _settled(process: Process, decide: bool) -> bool:
    """Whether further steps would tell nothing that is asked for."""
    found = extremes_of(process, TOLERANCE)
    if not (found.smallest.converged and found.largest.converged):
        return False
    return not (decide and found.smallest.value > 0 and found.positive_definite is None)


def _capacity(
    A: LinearOperator, name: str, allowance: Allowance, products: int, guess: float
) -> int:
    """Vectors to hold: one for each step that there may be time for and memory."""
    cost = allowance.estimate(name, guess)
    steps = float(products) if cost <= 0 else min(products, allowance.planned() / cost + 1)
    # What the planned time allows may turn out to be more, where the first times were slow.
    steps = min(products, 2 * steps)
    return int(max(LEAST, min(steps, _room(A))))


def _room(A: LinearOperator) -> int:
    """Vectors that `BASIS_BYTES` hold."""
    size = torch.empty(0, dtype=A.dtype).element_size() * A.shape[0]
    return BASIS_BYTES // max(size, 1)


def _rounded(extremes: Extremes, epsilon: float, asymmetry: float = 0.0) -> tuple[Extremes, float]:
    """The same with k epsilon |A| after k products in the error bounds, and that number.

    It is `asymmetry` where that is more.
    """
    norm = max(abs(extremes.smallest.value), abs(extremes.largest.value))
    rounding = max(extremes.products * epsilon * norm, asymmetry)
    return (
        Extremes(
            extremes.smallest.widened(rounding),
            extremes.largest.widened(rounding),
            extremes.products,
            extremes.lowest - rounding,
        ),
        rounding,
    )
