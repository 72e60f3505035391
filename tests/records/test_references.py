"""The reference solutions: converged in step and resolution, and two ways to one solution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from examples.networks import mlp, siren
from examples.records import spectral
from examples.records.derivatives import At, forward_laplacian
from examples.records.problems import allen_cahn, burgers, korteweg_de_vries
from examples.records.sampling import by_residual, grid, on_faces


@pytest.fixture(autouse=True)
def _double(float64: None) -> None:
    torch.manual_seed(0)


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_allen_cahn_is_converged() -> None:
    u = allen_cahn.reference()
    assert u.shape == (51, 256)
    assert distance(allen_cahn.reference(steps=40), u) < 1e-10
    assert distance(allen_cahn.reference(points=4096), u) < 1e-11


def test_the_modes_of_allen_cahns_start_are_its_integrals() -> None:
    points = 4096
    x = -1 + 2 * torch.arange(points) / points
    series = torch.fft.irfft(allen_cahn.start_modes(points).to(torch.complex128), points)
    # A kink's series converges like 1 / modes at the kink itself.
    assert (series - allen_cahn.initial(x)).abs().max() < 1e-3
    assert distance(series, allen_cahn.initial(x)) < 1e-4


def test_korteweg_de_vries_is_converged() -> None:
    u = korteweg_de_vries.reference()
    assert u.shape == (51, 256)
    few, fewer = (distance(korteweg_de_vries.reference(steps=n), u) for n in (100, 50))
    # Of fourth order: what 100 steps differ from 400 by is 255 times the error of 400.
    assert 12 < fewer / few < 20
    assert few / 255 < 2e-11
    coarse, fine = (korteweg_de_vries.reference(points=n, steps=25) for n in (512, 1024))
    assert distance(coarse, fine) < 1e-11


@pytest.mark.parametrize("viscosity", [0.01, 0.03])
def test_the_spectral_method_finds_cole_and_hopfs_solution(viscosity: float) -> None:
    points = 1024
    x = -1 + 2 * torch.arange(points) / points
    k = spectral.wavenumbers(points, 2.0)
    transport = spectral.transport(k, 1.0, points)
    u = spectral.solve(-torch.sin(torch.pi * x), -viscosity * k**2, transport, 1.0, 4, 500)
    exact = burgers.cole_hopf(grid(torch.linspace(0, 1, 5), x), viscosity)
    assert distance(u, exact.reshape(5, points)) < 1e-10


def test_a_soliton_travels_unchanged() -> None:
    """U = 12 c b^2 / cosh^2(b (x - 4 c b^2 t)) solves u_t + u u_x + c u_xxx = 0."""
    c, b, points = 0.022**2, 10.0, 512
    x = -1 + 2 * torch.arange(points) / points
    k = spectral.wavenumbers(points, 2.0)

    def soliton(t: float) -> Tensor:
        return 12 * c * b**2 / torch.cosh(b * (x - 4 * c * b**2 * t)) ** 2

    u = spectral.solve(soliton(0), 1j * c * k**3, spectral.transport(k, 1.0, points), 0.5, 1, 500)
    # On a circle the tails of two turns overlap: exp(-2 b) of the height.
    assert distance(u[-1], soliton(0.5)) < 1e-6


def test_the_laplacian_layer_by_layer_is_the_nested_one() -> None:
    net, x = mlp((7, 16, 12, 1)), torch.rand(9, 7)
    value, laplacian = forward_laplacian(net, x)
    at = At(net, x)
    assert torch.allclose(value, at.u)
    assert torch.allclose(laplacian, at.laplacian(), rtol=1e-10)


def test_points_on_faces_are_on_one_face() -> None:
    points = on_faces(100, 3)
    assert (((points == 0) | (points == 1)).sum(1) == 1).all()


def test_points_are_drawn_where_the_residual_is_large() -> None:
    candidates = torch.linspace(0, 1, 1000)[:, None]
    drawn = by_residual(200, candidates, lambda x: (x > 0.9).double())
    assert len(drawn.unique()) == 200
    # |r| / mean |r| + 1 is 11 in a tenth of the interval and 1 in the rest.
    assert (drawn > 0.9).sum() > 60


def test_a_siren_keeps_the_scale_of_its_inputs() -> None:
    net = siren((3, 200, 200, 1), first_frequency=1.0)
    spread = net[:-1](torch.randn(100, 3)).std()
    assert 0.3 < spread < 1.0
