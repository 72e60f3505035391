"""The reference solutions: converged in step and resolution, and two ways to one solution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from examples.networks import mlp, siren
from examples.records import cavity_flow, spectral
from examples.records.derivatives import At, forward_laplacian
from examples.records.problems import (
    allen_cahn,
    burgers,
    korteweg_de_vries,
    kuramoto_sivashinsky,
)
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


def test_kuramoto_sivashinsky_is_converged() -> None:
    few, more = (kuramoto_sivashinsky.reference(steps=n)[:26] for n in (50, 100))
    fine = kuramoto_sivashinsky.reference(steps=200)[:26]
    # Of fourth order, in the half of the time before small differences have grown.
    assert 12 < distance(few, fine) / distance(more, fine) < 24
    # What 200 steps differ from 400 by is 15 times the error of 400.
    more = kuramoto_sivashinsky.reference(steps=200)
    assert distance(more, kuramoto_sivashinsky.reference()) / 15 < 8e-9


GHIA_U = {0.9766: 0.84123, 0.9531: 0.68717, 0.7344: 0.00332, 0.5: -0.20581, 0.4531: -0.21090}
GHIA_U |= {0.2813: -0.15662, 0.1719: -0.10150, 0.0625: -0.04192}
GHIA_V = {0.0703: 0.10091, 0.1563: 0.16077, 0.2344: 0.17527, 0.5: 0.05454, 0.8047: -0.24533}
GHIA_V |= {0.9063: -0.16914, 0.9531: -0.08864}


def test_the_flow_in_the_cavity_is_ghias() -> None:
    """On the centre lines, Re = 100: tables I and II of Ghia, Ghia and Shin (1982).

    Of a grid of 129 x 129, second order and not extrapolated, they differ from finer ones (Botella
    and Peyret 1998, Marchi et al. 2009) by up to 0.009.
    """
    import numpy as np

    n = 48
    middle, places = n // 2 - 1, cavity_flow.nodes(n)
    u, v = cavity_flow.extrapolated(n, shown=n)
    found_u = np.interp(list(GHIA_U), places, u[middle])
    found_v = np.interp(list(GHIA_V), places, v[:, middle])
    assert np.abs(found_u - list(GHIA_U.values())).max() < 0.01
    assert np.abs(found_v - list(GHIA_V.values())).max() < 0.01
    # What flows through the vertical centre line comes back: psi is 0 at both of its ends.
    there = torch.trapezoid(torch.tensor([0, *u[middle], 1]), torch.tensor([0, *places, 1]))
    assert there.abs() < 1e-3


def test_the_flow_in_the_cavity_is_converged() -> None:
    few, more, most = (torch.from_numpy(cavity_flow.extrapolated(n)) for n in (32, 48, 96))
    assert distance(few, most) < 1.3e-3
    assert distance(more, most) < 3e-4
