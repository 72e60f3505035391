"""Numbers lie within their stated bounds, whatever the effort, and definiteness is never wrong."""

import math

import pytest
import torch
from torch.nn import functional

from lightning_callbacks.allowance import Allowance
from lightning_callbacks.bounded import Look, kernel_within, spectrum_within, spectrum_work
from lightning_callbacks.kernel_products import products_of_loss
from lightning_callbacks.quantities.hessian import hessian_numbers
from lightning_callbacks.spectrum import hessian_spectrum
from lightning_callbacks.work import Course
from tests.helpers import symmetric_with, tally
from torch_newton import LinearOperator, from_dense, hessian

LARGE = 10
"""Models of 2,000 parameters and more, of which the dense Hessian takes seconds."""


def activation(random):
    kinds = (torch.nn.Tanh, torch.nn.ReLU, torch.nn.GELU, torch.nn.Sigmoid, torch.nn.SiLU)
    return kinds[int(torch.randint(len(kinds), (), generator=random))]()


def model(seed):
    """A random network with its loss, at a random point: P from 50 to 800, some up to 5,000."""
    random = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)

    def number(low, high):
        return int(torch.randint(low, high + 1, (), generator=random))

    large = seed < LARGE
    inputs, outputs, samples = number(2, 6), number(1, 4), number(3, 30)
    width = number(38, 64) if large else number(4, 18)
    kind = seed % 4
    if kind == 3:  # a convolution and batch normalisation
        channels = 14 if large else number(2, 6)
        net = torch.nn.Sequential(
            torch.nn.Conv1d(1, channels, 3, padding=1), torch.nn.BatchNorm1d(channels),
            activation(random), torch.nn.Conv1d(channels, channels * (3 if large else 1), 3),
            activation(random), torch.nn.Flatten(), torch.nn.LazyLinear(outputs),
        )  # fmt: skip
        x = torch.randn(max(samples, 4), 1, 6, generator=random)
    else:
        layers = [torch.nn.Linear(inputs, width), activation(random)]
        for _ in range(1 if large else number(0, 2)):
            layers += [torch.nn.Linear(width, width), activation(random)]
        net = torch.nn.Sequential(*layers, torch.nn.Linear(width, outputs))
        x = torch.randn(samples, inputs, generator=random)
    precision = torch.float64 if seed % 3 else torch.float32
    net(x)
    net, x = net.to(precision), x.to(precision)
    scale = 10 ** (3 * float(torch.rand((), generator=random)) - 2)
    with torch.no_grad():
        for param in net.parameters():
            param.mul_(max(scale, 0.3) if scale < 5 else 2.0)
    z = net(x)
    if kind == 1 and outputs > 1:
        labels = torch.randint(outputs, (len(x),), generator=random)
        return functional.cross_entropy(z, labels), list(net.parameters())
    y = torch.randn(z.shape, generator=random).to(precision)
    if kind == 2:
        return functional.huber_loss(z, y), list(net.parameters())
    return functional.mse_loss(z, y), list(net.parameters())


def timed_to(products, seed):
    """An allowance for so many products: each is said to take a second, and none takes long."""
    allowance = Allowance(2.5 * products + seed % 3)
    for name in ("product", "kernel", "column"):
        for _ in range(2):
            allowance.costs.put(name, 1.0)
    return allowance


def in_pauses(work, allowance, units):
    """The result of some work that is put down after so many units each time."""
    course = Course(work, allowance)
    while not course.done:
        fits, allowance.fits = allowance.fits, _so_often(units)
        course.advance()
        allowance.fits = fits
    return course.result


def _so_often(units):
    left = [units]

    def fits(seconds):
        left[0] -= 1
        return left[0] >= 0

    return fits


def check_spectrum(spectrum, values, matrix_rounding):
    """The numbers of H against all of its eigenvalues, which are known to `matrix_rounding`."""
    slack = matrix_rounding
    for end in (spectrum.extremes.smallest, spectrum.extremes.largest):
        assert (values - end.value).abs().min() <= end.error_bound + slack
    rounding = spectrum.rounding + slack
    assert spectrum.extremes.lowest <= values[0] + slack
    assert spectrum.extremes.smallest.value >= values[0] - rounding
    assert spectrum.extremes.largest.value <= values[-1] + rounding
    certain = ((values < -rounding).double().mean(), (values < rounding).double().mean())
    assert spectrum.negative.low <= certain[1] + 1e-12
    assert spectrum.negative.high >= certain[0] - 1e-12
    shifts = [0.0, *(abs(float(values[0])) * f for f in (0.5, 0.999, 1.001, 2.0))]
    for damping in shifts:
        said = hessian_numbers(spectrum, damping)["hessian/positive_definite"]
        if said == 1:
            assert values[0] + damping > -slack, "said to be positive definite, and is not"
        if said == 0:
            assert values[0] + damping <= rounding, "said not to be definite, and is"


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_every_number_is_within_its_bound_on_random_networks(part):
    for seed in range(part, 200, 10):
        loss, params = model(seed)
        H = hessian(loss, params)
        size, epsilon = H.shape[0], torch.finfo(H.dtype).eps
        assert size <= 5000
        dense = H.dense().double()
        values = torch.linalg.eigvalsh((dense + dense.T) / 2)
        # The reference is made of products of the same precision.
        slack = 4 * math.sqrt(size) * epsilon * float(values.abs().max())
        products = 2 + int(torch.randint(60, (), generator=torch.Generator().manual_seed(seed)))
        allowance = timed_to(products, seed)
        look = Look(epsilon, 400 if seed % 2 else 0, 100, False)
        spectrum = in_pauses(spectrum_work(H, look, allowance), allowance, 1 + seed % 5)
        tally("spectra of 200 random networks within their bounds", 1, 0)
        check_spectrum(spectrum, values, slack)
        tally("spectra of 200 random networks within their bounds", 0, 1)
        check_kernels(loss, params, products, seed)


def check_kernels(loss, params, products, seed):
    K = products_of_loss(loss, params)
    if K is None or min(K.J.shape) > 800:
        return
    J = K.J.T.dense().T.double()
    unit = torch.finfo(params[0].dtype).eps
    for weighted in (False, True):
        operator, start = K.gauss_newton(None) if weighted else K.kernel()
        if weighted:
            matrix = J.T @ (K.scale**2 * J if K.Q is None else K.Q.dense().double() @ J)
        else:
            matrix = J @ J.T
        values = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
        if not float(values.abs().max()) > 0:
            continue
        slack = 4 * math.sqrt(max(J.shape)) * unit * float(values.abs().max())
        found = kernel_within(operator, start, unit, timed_to(products, seed), 100)
        for end in (found.smallest, found.largest):
            assert (values - end.value).abs().min() <= end.error_bound + slack
        assert found.largest.value <= values[-1] + found.largest.error_bound + slack


@pytest.mark.slow
def test_definiteness_is_never_wrong_in_a_thousand_cases():
    random = torch.Generator().manual_seed(5)
    verdicts = {1.0: 0, 0.0: 0}
    for case in range(1000):
        size = 5 + int(torch.randint(150, (), generator=random))
        values = torch.randn(size, generator=random, dtype=torch.float64).abs() + 1e-3
        values *= 10 ** (-3 * torch.rand(size, generator=random, dtype=torch.float64))
        negative = case % 3 > 0
        if negative:  # one eigenvalue below zero, by much or by next to nothing
            depth = 10 ** (-10 * float(torch.rand((), generator=random)))
            values[0] = -depth * float(values.max())
        A = from_dense(symmetric_with(values, seed=case))
        products = 2 + case % 80
        exact_up_to = 400 if case % 5 == 0 else 0
        if case % 2:
            spectrum = hessian_spectrum(A, 2.3e-16, exact_up_to=exact_up_to, products=products)
        else:
            spectrum = spectrum_within(
                A, 2.3e-16, timed_to(products, case), exact_up_to=exact_up_to, products=products,
                vectors=False,
            )  # fmt: skip
        said = hessian_numbers(spectrum, 0.0)["hessian/positive_definite"]
        tally("definiteness of 1,000 matrices never misstated", 1, 0)
        assert said != (1.0 if negative else 0.0)
        tally("definiteness of 1,000 matrices never misstated", 0, 1)
        if said in verdicts:
            verdicts[said] += 1
    assert min(verdicts.values()) > 50, "hardly anything is decided"


def test_work_put_down_after_each_unit_gives_the_same_numbers():
    matrix = symmetric_with(torch.linspace(-1, 5, 60), seed=1)
    for exact_up_to in (0, 400):
        found = []
        for units in (1, 3, 10**6):
            A = LinearOperator(
                matrix.shape, lambda v: matrix @ v, lambda v: matrix @ v, matrix.dtype,
                matrix.device,
            )  # fmt: skip
            allowance = Allowance(1e6)
            look = Look(2e-16, exact_up_to, 100, False)
            found.append(in_pauses(spectrum_work(A, look, allowance), allowance, units))
        assert found[0].extremes == found[1].extremes
        for spectrum in found[1:]:
            values = torch.linalg.eigvalsh(matrix)
            check_spectrum(spectrum, values, 1e-13)
