"""What the figures show, and that Matplotlib's own settings are left alone."""

import importlib
from pathlib import Path

import pytest
import torch

mpl = pytest.importorskip("matplotlib")
figures = pytest.importorskip("lightning_callbacks.figures")


def lines(axes):
    return [torch.as_tensor(line.get_ydata()) for line in axes.lines]


def test_eigenvalues_are_drawn_by_rank_with_their_signs():
    before = dict(mpl.rcParams)
    values = torch.tensor([-3.0, 0.5, 0.0, 2.0])
    figure = figures.eigenvalue_figure({"hessian": values, "ntk": values.abs()})
    assert dict(mpl.rcParams) == before
    left, right = figure.axes
    positive, negative = left.lines
    assert positive.get_ydata().tolist() == [2.0, 0.5]
    assert positive.get_xdata().tolist() == [2, 3]
    assert negative.get_ydata().tolist() == [3.0]
    assert negative.get_xdata().tolist() == [1]
    assert left.get_title() == "Hessian H"
    assert len(right.lines) == 1
    assert right.get_yscale() == "log"


def test_margin_shows_both_and_says_where_it_is_not_definite():
    figure = figures.margin_figure([0, 5], [-1.0, 0.1], [0.5, 0.5])
    (axes,) = figure.axes
    _, shifted, low = lines(axes) if len(axes.lines) == 3 else (None, *lines(axes))
    torch.testing.assert_close(shifted, torch.tensor([-0.5, 0.6], dtype=torch.float64))
    torch.testing.assert_close(low, torch.tensor([-1.0, 0.1], dtype=torch.float64))
    assert axes.get_yscale() == "symlog"


def test_heat_map_counts_every_eigenvalue_once():
    spectra = [torch.randn(40, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    figure = figures.heat_map_figure([0, 1, 2], spectra)
    counts = torch.as_tensor(figure.axes[0].collections[0].get_array())
    counts = torch.where(counts > 0.5, counts, torch.zeros_like(counts))
    assert counts.sum(0).tolist() == [40, 40, 40]


def test_kernels_leave_out_what_is_not_positive():
    ntk = [torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 2.0, 3.0])]
    figure = figures.kernel_figure([0, 9], ntk, [k / (k + 1) for k in ntk])
    first, second = lines(figure.axes[0])
    assert first.tolist() == [2.0, 1.0]
    assert second.tolist() == [3.0, 2.0, 1.0]
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["step 0", "step 9"]


def test_the_example_of_spectral_bias(tmp_path, monkeypatch):
    pytest.importorskip("statsmodels")
    mpl.use("agg")
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples")
    example = importlib.import_module("spectral_bias")
    record = example.load()
    # A pure yearly cycle is all in its band, but for what the window spreads.
    cycle = torch.sin(2 * torch.pi * record.years)
    energy = example.band_energy(cycle)
    assert energy["yearly cycle"] == pytest.approx(2**-0.5, rel=0.02)
    assert energy["trend"] < 0.02
    assert energy["its harmonics"] < 0.02
    names = ("Adam, rate 1e-2", "RegNewton")
    histories = {name: example.train(record, name, 0.3) for name in names}
    for history in histories.values():
        assert len(history.times) >= 2  # how many more depends on the machine
        assert history.ntk.keys() == history.nntk.keys()
        assert len(history.ntk[0]) == len(record.x)
    example.draw(record, histories, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
