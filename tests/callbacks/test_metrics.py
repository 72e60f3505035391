"""Spectra as torchmetrics: sums over batches and ranks, against dense matrices of the whole."""

import math
import os
from pathlib import Path

import pytest
import torch

from lightning_callbacks import Definiteness, HessianSpectrum, TangentKernelSpectrum
from tests.helpers import mlp, problem_of, randn, symmetric_with

X, Y = randn(12, 2, seed=1), randn(12, 1, seed=2)
MSE = torch.nn.functional.mse_loss


def whole():
    return problem_of(mlp(2, 5, 1), X, lambda z: MSE(z, Y))


@pytest.mark.parametrize("sizes", [[12], [4, 4, 4], [1, 8, 3]])
def test_spectrum_of_batches_is_that_of_the_whole(sizes):
    net, metric = mlp(2, 5, 1), HessianSpectrum()
    for x, y in zip(X.split(sizes), Y.split(sizes), strict=True):
        metric.update(MSE(net(x), y), net.parameters(), weight=len(x))
    torch.testing.assert_close(
        metric.compute(), torch.linalg.eigvalsh(whole().hessian()), rtol=0, atol=1e-12
    )
    metric.reset()
    metric.update(MSE(net(X), Y), net.parameters())
    assert len(metric.compute()) == 21


@pytest.mark.parametrize("size", [12, 5])
def test_kernel_of_batches_is_that_of_the_whole(size):
    net, metric = mlp(2, 5, 1), TangentKernelSpectrum()
    for x in X.split(size):
        metric.update(net(x), net.parameters())
    J = whole().jacobian()
    torch.testing.assert_close(metric.compute(), torch.linalg.eigvalsh(J @ J.T), rtol=0, atol=1e-11)


def quadratic(matrix, theta):
    return theta @ matrix @ theta / 2


@pytest.mark.parametrize("seed", range(10))
def test_an_indefinite_mean_is_never_called_definite(seed):
    """A thousand means of two matrices, margins down to -1e-10."""
    for case in range(100):
        n = 2 + case % 9
        random = torch.Generator().manual_seed(100 * seed + case)
        margin = 10 ** float(-10 * torch.rand((), generator=random))
        rest = torch.rand(n - 1, generator=random, dtype=torch.float64)
        values = torch.cat([torch.tensor([-margin], dtype=torch.float64), rest])
        matrix, other = symmetric_with(values, seed=case), symmetric_with(rest.new_ones(n), seed=1)
        theta = torch.zeros(n, dtype=torch.float64, requires_grad=True)
        metric = Definiteness()
        metric.update(quadratic(2 * matrix - other, theta), [theta])
        metric.update(quadratic(other, theta), [theta])
        assert float(metric.compute()) != 1


def test_definiteness_takes_the_damping_and_admits_what_rounding_decides():
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    matrix = torch.diag(torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64))
    for damping, expected in ((1.1, 1.0), (0.9, 0.0)):
        metric = Definiteness(damping)
        metric.update(quadratic(matrix, theta), [theta])
        assert float(metric.compute()) == expected
        assert metric.margin()[0] == pytest.approx(damping - 1)
    metric = Definiteness(1.0)
    metric.update(quadratic(matrix, theta), [theta])
    assert math.isnan(metric.compute())
    coarse = Definiteness(1.0 + 1e-9)
    single = theta.detach().float().requires_grad_()
    coarse.update(quadratic(matrix.float(), single), [single])
    assert math.isnan(coarse.compute())


def test_what_does_not_fit_is_refused():
    net = mlp(2, 5, 1)
    loss = MSE(net(X), Y)
    with pytest.raises(ValueError, match="max_parameters=20 allows"):
        HessianSpectrum(20).update(loss, net.parameters())
    metric = HessianSpectrum()
    with pytest.raises(ValueError, match="weight must be positive"):
        metric.update(loss, net.parameters(), weight=0)
    metric.update(loss, net.parameters())
    with pytest.raises(ValueError, match="are 21 x 21, and this one is 10 x 10"):
        metric.update(loss, [net[0].weight])
    with pytest.raises(ValueError, match="max_parameters must be positive"):
        HessianSpectrum(0)
    with pytest.raises(ValueError, match="damping"):
        Definiteness(-1.0)


def test_plots():
    pytest.importorskip("matplotlib").use("agg")
    from matplotlib.figure import Figure

    net = mlp(2, 5, 1)
    hessian, kernel, definite = HessianSpectrum(), TangentKernelSpectrum(), Definiteness(0.3)
    hessian.update(MSE(net(X), Y), net.parameters())
    definite.update(MSE(net(X), Y), net.parameters())
    kernel.update(net(X), net.parameters())
    for metric in (hessian, kernel, definite):
        _, axes = metric.plot()
        assert axes.get_xlabel() == "rank of eigenvalue"
        own = Figure().subplots()
        assert metric.plot(ax=own) == (own.figure, own)
    shown = torch.cat([torch.as_tensor(line.get_ydata()) for line in definite.plot()[1].lines])
    expected = (hessian.compute() + 0.3).abs()
    torch.testing.assert_close(shown.sort().values, expected.sort().values)


def _rank(rank, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    net = mlp(2, 5, 1)
    part = slice(0, 5) if rank == 0 else slice(5, 12)
    spectrum, kernel = HessianSpectrum(), TangentKernelSpectrum()
    definite = Definiteness(0.1)
    for metric in (spectrum, definite):
        metric.update(MSE(net(X[part]), Y[part]), net.parameters(), weight=len(X[part]))
    kernel.update(net(X[part]), net.parameters())
    found = [metric.compute() for metric in (spectrum, kernel, definite)]
    torch.save(found, Path(folder) / f"{rank}")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forked")
def test_two_processes_compute_the_spectrum_of_both_parts(tmp_path):
    torch.multiprocessing.start_processes(_rank, (str(tmp_path),), nprocs=2, start_method="fork")
    H, J = whole().hessian(), whole().jacobian()
    values = torch.linalg.eigvalsh(H)
    for rank in (0, 1):
        spectrum, kernel, definite = torch.load(tmp_path / f"{rank}")
        torch.testing.assert_close(spectrum, values, rtol=0, atol=1e-12)
        expected = torch.linalg.eigvalsh(J @ J.T)
        torch.testing.assert_close(kernel, expected, rtol=0, atol=1e-11)
        assert float(definite) == float(values[0] + 0.1 > 0)
