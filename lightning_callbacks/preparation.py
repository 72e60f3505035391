"""What quantities need of a point, computed in units that may be spread over several pauses."""

from __future__ import annotations

from collections.abc import Collection

from torch_newton import KernelSpectrum

from .allowance import OutOfTimeError
from .bounded import spectrum_work
from .kernels_within import kernel_of_products, seconds_to_read
from .point import Point
from .quantities.base import Need
from .symmetry import asymmetry_work
from .work import Unit, Work

OF_THE_HESSIAN = frozenset({Need.HESSIAN, Need.SPECTRUM, Need.EIGENVECTORS})

PRODUCT = 3.0
"""What the first product with H is reckoned to take, in evaluations of the loss and its gradient
with a graph. Measured for the first product of a process were 1.5 for an LSTM, 2.2 for an
autoencoder, 2.6 for a ResNet, 3.3 for a dense network of a million parameters and 3.6 for a CNN of
5,000, of which a cold start was at most a half. `SAFETY` comes on top."""


FUNCTIONS = 3.0
"""What testing the functions of a model that have a backward pass of their own is reckoned to take:
an evaluation, and for each some twenty times what it takes itself."""


def prepared(point: Point, needs: Collection[Need]) -> Work[None]:
    """Compute what is needed of a point, as far as it is not known yet.

    Raises:
        OutOfTimeError: there is no time for the least of it.
    """
    if point.allowance.unlimited or not point.finite:
        return
    # The terms of the loss hold derivatives of the size of its outputs, and are read again in
    # little time.
    vars(point).pop("residuals", None)
    if OF_THE_HESSIAN & set(needs):
        yield from _hessian(point)
        if {Need.SPECTRUM, Need.EIGENVECTORS} & set(needs) and point.symmetric:
            yield from _spectrum(point)
    if {Need.SPECTRUM, Need.WEIGHTED_KERNEL} & set(needs):
        yield from _damping(point)
    for need, weighted in ((Need.KERNEL, False), (Need.WEIGHTED_KERNEL, True)):
        if need in needs:
            yield from _kernel(point, weighted=weighted)
    if Need.JACOBIAN in needs and not _known(point, "jacobian"):
        K = None if point.gram is not None else point.kernel_products
        if K is not None:
            yield Unit("reading", seconds_to_read(K, point.allowance))
        _ = point.jacobian


def takes_products(needs: Collection[Need], point: Point) -> bool:
    """Whether what is needed of a point takes products with H that have not been taken."""
    if Need.HESSIAN in needs:
        return True
    if {Need.SPECTRUM, Need.EIGENVECTORS} & set(needs) and not _known(point, "spectrum"):
        return True
    damped = {Need.SPECTRUM, Need.WEIGHTED_KERNEL} & set(needs)
    return bool(damped) and point.damping_by_product and not _known(point, "damping")


def _known(point: Point, name: str) -> bool:
    return name in vars(point)


def _hessian(point: Point) -> Work[None]:
    """Whether the products are those of a Hessian, by the first two of them."""
    if not _known(point, "wrong"):
        if point.functions:
            yield Unit("functions", FUNCTIONS * point.allowance.estimate("gradient"))
        with point.allowance.together():
            wrong = point.wrong
        # One answer for all processes, which take as many products.
        if point.allowance.anywhere(bool(wrong)):
            vars(point)["wrong"] = wrong or ["a function in another process"]
    if not point.is_gradient:
        return
    yield from _product(point)
    if not _known(point, "asymmetry"):
        found = yield from asymmetry_work(
            point.H,
            point.gradient,
            point.allowance,
            point.start(point.H),
            lambda: point.first_product,
        )
        vars(point)["asymmetry"] = found.asymmetry
        if found.along_gradient is not None:
            vars(point)["gradient_product"] = found.along_gradient


def _product(point: Point) -> Work[None]:
    """The first product, with which it is seen whether there is a second derivative."""
    if not _known(point, "H"):
        yield Unit("product", PRODUCT * point.allowance.estimate("gradient"))
        _ = point.first_product


def _damping(point: Point) -> Work[None]:
    """Lambda, for which some optimizers take a product at the first measurement."""
    if not _known(point, "damping") and point.damping_by_product:
        yield from _hessian(point)
        if not _known(point, "gradient_product"):  # as where it is no Hessian's
            yield from _product(point)
            yield Unit("product")
        _ = point.damping


def _spectrum(point: Point) -> Work[None]:
    if not _known(point, "spectrum"):
        first = point.start.handed_over(point.H, vars(point), "first_product")
        work = spectrum_work(point.H, point.look, point.allowance, first)
        vars(point)["spectrum"] = yield from work


def _kernel(point: Point, *, weighted: bool) -> Work[None]:
    """One kernel: from all rows where these can be read in one pause, else by products."""
    name = "weighted_kernel" if weighted else "kernel"
    if _known(point, name):
        return
    if point.gram is not None or point.kernel_products is None:
        return  # a step has read the rows; or there are none, and reading will say so
    seconds = seconds_to_read(point.kernel_products, point.allowance)
    if point.allowance.plans(point.allowance.estimate("reading", seconds)):
        try:
            yield Unit("reading", seconds)
            getattr(point, name)
            return
        except OutOfTimeError:
            pass
    point.allowance.reduced = True
    scale = point.kernel_products.scale if point.scaling is None else None
    if scale is None:
        vars(point)[name] = yield from _by_products(point, weighted=weighted)
        return
    # Q = c^2 I: the kernels differ by the factor c^2.
    if not _known(point, "kernel"):
        vars(point)["kernel"] = yield from _by_products(point, weighted=False)
    plain = point.kernel
    vars(point)["weighted_kernel"] = None if plain is None else plain.scaled(scale**2)


def _by_products(point: Point, *, weighted: bool) -> Work[KernelSpectrum | None]:
    """A kernel by products, whose graph takes the place of the gradient's while they last.

    Each is as large as the other, and either can be made again.
    """
    point.drop_hessian()
    before, point.without_hessian = point.without_hessian, True
    try:
        work = kernel_of_products(lambda: point.kernel_products, point, weighted=weighted)
        return (yield from work)
    finally:
        point.without_hessian = before
        vars(point).pop("kernel_products", None)
