"""The quantities asked for, measured at one point of a training."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from .allowance import OutOfTimeError
from .failures import Failures, WrongQuantityError
from .point import Point
from .quantities.base import Measured, Need, Numbers, Quantity

OF_THE_HESSIAN = frozenset({Need.HESSIAN, Need.SPECTRUM, Need.EIGENVECTORS})


@dataclass(frozen=True)
class Measurement:
    """What was measured.

    Attributes:
        numbers: by their keys, without prefix.
        spectra: the eigenvalues, where all are known, by the name of the quantity.
    """

    numbers: Numbers = field(default_factory=dict)
    spectra: dict[str, Tensor] = field(default_factory=dict)


def measure(
    point: Point | None,
    quantities: Sequence[Quantity],
    failures: Failures,
    first: Collection[str] = (),
) -> Measurement:
    """All of the quantities at a point, each for itself.

    Args:
        point: None where it could not be had, so that nothing is known.
        quantities: what to measure.
        failures: notes what is raised; the numbers of that quantity are then unknown.
        first: names of those for which there was no time before, and which come first now.

    Raises:
        WrongQuantityError: a quantity returns a key that its documentation lacks.
    """
    measurement, found = Measurement(), dict[str, Measured]()
    # What two kernels share is computed once, and the time of the second is left for the Hessian.
    # What takes little comes first, and leaves its share to the rest.
    order = sorted(quantities, key=lambda q: (q.name not in first, not q.light, _of_hessian(q)))
    for i, quantity in enumerate(order):
        measured = Measured(quantity.unknown() if quantity.needs else {})
        if point is not None:
            point.allowance.begin(max(1, sum(not q.light for q in order[i:])))
            try:
                with failures.noted(f"measuring {quantity.name!r}"):
                    measured = _measured(quantity, point)
            except OutOfTimeError as error:
                point.allowance.lacking[quantity.name] = error.needed
                continue
        _check(quantity, measured)
        found[quantity.name] = measured
    for quantity in quantities:
        measured = found.get(quantity.name, Measured({}))
        measurement.numbers.update((key, float(n)) for key, n in measured.numbers.items())
        if measured.spectrum is not None:
            measurement.spectra[quantity.name] = measured.spectrum
    return measurement


def _of_hessian(quantity: Quantity) -> bool:
    """Whether products with the Hessian are what a quantity is made of."""
    return bool(quantity.needs & OF_THE_HESSIAN)


def _check(quantity: Quantity, measured: Measured) -> None:
    undocumented = {key for key in measured.numbers if not quantity.documents(key)}
    if undocumented:
        # Where the loss is not finite it would be missing from the NaN numbers, too.
        raise WrongQuantityError(
            f"the quantity {quantity.name!r} returned {', '.join(sorted(undocumented))}, "
            "which its documentation does not list"
        )


def _measured(quantity: Quantity, point: Point) -> Measured:
    """One quantity, or what is logged in its place where the point lacks what it needs."""
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
    return Measured(quantity.unknown()) if lacking else quantity.compute(point)
