"""The quantities asked for, measured at one point of a training."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from .allowance import Allowance, OutOfTimeError
from .failures import Failures, WrongQuantityError
from .in_step import in_step
from .point import Point
from .preparation import OF_THE_HESSIAN, prepared, takes_products
from .quantities.base import Measured, Need, Numbers, Quantity
from .work import Work, run


@dataclass
class Measurement:
    """What was measured.

    Attributes:
        numbers: by their keys, without prefix.
        spectra: the eigenvalues, where all are known, by the name of the quantity.
        step: at which the parameters were those of the point.
    """

    numbers: Numbers = field(default_factory=dict)
    spectra: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0

    def add(self, other: Measurement, prefix: str = "") -> None:
        """Put what was measured of one of several losses beside the rest."""
        self.numbers.update((prefix + key, value) for key, value in other.numbers.items())
        self.spectra.update((prefix + name, value) for name, value in other.spectra.items())


def measure(
    point: Point | None,
    quantities: Sequence[Quantity],
    failures: Failures,
    first: Collection[str] = (),
    found: Measurement | None = None,
) -> Measurement:
    """All of the quantities at a point in one pause: see `measuring`."""
    found = Measurement() if found is None else found
    work = measuring(point, quantities, failures, first, found)
    if point is None:
        return run(work, Allowance())
    return run(work, point.allowance)


def measuring(
    point: Point | None,
    quantities: Sequence[Quantity],
    failures: Failures,
    first: Collection[str],
    found: Measurement,
) -> Work[Measurement]:
    """All of the quantities at a point, each for itself.

    Args:
        point: None where it could not be had, so that nothing is known.
        quantities: what to measure.
        failures: notes what is raised; the numbers of that quantity are then unknown.
        first: names of those for which there was no time before, and which come first now.
        found: gets the numbers of each quantity when it is finished.

    Raises:
        WrongQuantityError: a quantity returns a key that its documentation lacks.
    """
    order = sorted(quantities, key=lambda q: (q.name not in first, _rank(q)))
    for i, quantity in enumerate(order):
        measured = Measured(quantity.unknown() if quantity.needs else {})
        if point is not None:
            point.allowance.begin(_parts(order[i:]))
            point.without_hessian = not any(takes_products(q.needs, point) for q in order[i:])
            if point.without_hessian:
                point.drop_hessian()
            try:
                with failures.noted(f"measuring {quantity.name!r}"):
                    measured = yield from in_step(_work(quantity, point), point.allowance)
            except OutOfTimeError as error:
                point.allowance.lacking[quantity.name] = error.needed
                continue
        _check(quantity, measured)
        found.numbers.update((key, float(n)) for key, n in measured.numbers.items())
        if measured.spectrum is not None:
            found.spectra[quantity.name] = measured.spectrum
    _in_order_of(quantities, found)
    return found


def _work(quantity: Quantity, point: Point) -> Work[Measured]:
    """What a quantity needs, in units, and then the quantity itself; unless the point lacks it."""
    unlimited = point.allowance.unlimited
    if quantity.needs and not unlimited:
        yield from prepared(point, quantity.needs)
    known = _in_place_of(quantity, point)
    if known is not None:
        return known
    if not quantity.needs or unlimited:
        return quantity.compute(point)
    return (yield from quantity.work(point))


def _in_order_of(quantities: Sequence[Quantity], found: Measurement) -> None:
    """Put the numbers in the order in which the quantities were asked for."""
    ordered = {
        key: value
        for quantity in quantities
        for key, value in found.numbers.items()
        if quantity.documents(key)
    }
    found.numbers.clear()
    found.numbers.update(ordered)


def _rank(quantity: Quantity) -> int:
    """Where in the order of work a quantity stands, among those of its rank as it was asked for.

    First what is read off the graph; then what takes a product with the Hessian, which the spectrum
    takes anyway; what follows from the spectrum of the Hessian; and last evaluations of the loss
    elsewhere, kernels, and what needs both a kernel and a spectrum.
    """
    needs = quantity.needs
    if quantity.light and Need.EVALUATION not in needs:
        return 1 if needs & OF_THE_HESSIAN else 0
    return 2 if Need.SPECTRUM in needs and Need.JACOBIAN not in needs else 3


def _parts(quantities: Sequence[Quantity]) -> int:
    """Into how many parts the time left is divided, of which the first of some quantities gets one.

    What takes little leaves its part to the rest. The spectrum of the Hessian gets a half, since
    kernels share what they are computed from.
    """
    heavy = sum(not q.light for q in quantities)
    return max(1, min(heavy, 2) if Need.SPECTRUM in quantities[0].needs else heavy)


def _check(quantity: Quantity, measured: Measured) -> None:
    undocumented = {key for key in measured.numbers if not quantity.documents(key)}
    if undocumented:
        # Where the loss is not finite it would be missing from the NaN numbers, too.
        raise WrongQuantityError(
            f"the quantity {quantity.name!r} returned {', '.join(sorted(undocumented))}, "
            "which its documentation does not list"
        )


def _in_place_of(quantity: Quantity, point: Point) -> Measured | None:
    """What is logged in place of a quantity where the point lacks what it needs; None elsewhere."""
    needs = quantity.needs
    if needs and not point.finite:
        return Measured(quantity.unknown())
    if Need.JACOBIAN in needs and point.jacobian is None:
        return Measured({})
    lacking = (
        (Need.EVALUATION in needs and point.evaluate is None)
        or (Need.STEP in needs and point.displacement is None)
        or (needs & OF_THE_HESSIAN and not point.symmetric)
        or (needs & {Need.SPECTRUM, Need.EIGENVECTORS} and point.spectrum is None)
    )
    return Measured(quantity.unknown()) if lacking else None
