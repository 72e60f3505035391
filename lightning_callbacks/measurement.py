"""The quantities asked for, measured at one point of a training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor

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


def measure(point: Point, quantities: Iterable[Quantity]) -> Measurement:
    """All of the quantities at a point.

    Raises:
        ValueError: a quantity returns a key that its documentation lacks.
    """
    measurement = Measurement()
    for quantity in quantities:
        measured = _measured(quantity, point)
        undocumented = set(measured.numbers) - {key for key, _ in quantity.documentation}
        if undocumented:
            # Where the loss is not finite it would be missing from the NaN numbers, too.
            raise ValueError(
                f"the quantity {quantity.name!r} returned {', '.join(sorted(undocumented))}, "
                "which its documentation does not list"
            )
        measurement.numbers.update((key, float(n)) for key, n in measured.numbers.items())
        if measured.spectrum is not None:
            measurement.spectra[quantity.name] = measured.spectrum
    return measurement


def _measured(quantity: Quantity, point: Point) -> Measured:
    """One quantity, or what is logged in its place where the point lacks what it needs."""
    needs = quantity.needs
    if needs and not point.finite:
        return Measured(quantity.unknown())
    if Need.JACOBIAN in needs and point.jacobian is None:
        return Measured({})
    if needs & OF_THE_HESSIAN and not point.symmetric:
        return Measured(quantity.unknown())
    if needs & {Need.SPECTRUM, Need.EIGENVECTORS} and point.spectrum is None:
        return Measured(quantity.unknown())
    return quantity.compute(point)
