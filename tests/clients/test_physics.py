"""DeepXDE, PINA, torchphysics, pykan and PyTorch Geometric, each with its own trainer."""

from __future__ import annotations

import importlib
import warnings

import pytest

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(
    ("package", "module", "steps", "below"),
    [
        ("deepxde", "deepxde_pdes", 35, 1e-4),
        ("pina", "pina_switch", 30, 1e-3),
        ("torchphysics", "torchphysics_points", 15, 5e-2),
        ("kan", "pykan_hello", 15, 1e-4),
        ("torch_geometric", "pyg_graph", 30, 0.1),
    ],
)
def test_client(package: str, module: str, steps: int, below: float) -> None:
    pytest.importorskip(package)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = importlib.import_module(f"examples.clients.{module}")
        newton, seconds = client.train_newton(steps)
        assert newton < below
        assert seconds > 0
        # That the package's own default runs to an end; it has no time to get anywhere.
        assert client.train_default(0.01) < 1e3


def test_an_operator_network_of_deepxde_trains_without_all_rows() -> None:
    pytest.importorskip("deepxde")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from examples.clients import deepxde_pdes as client

        before, _ = client.train_newton(0, name="operator")
        after, _ = client.train_newton(3, name="operator")
    assert after < 0.5 * before


def test_every_client_has_its_row_in_the_table() -> None:
    from pathlib import Path

    import examples.clients
    from examples.clients.__main__ import CLIENTS

    (folder,) = map(Path, examples.clients.__path__)
    modules = {path.stem for path in folder.glob("*.py")}
    assert {client.module for client in CLIENTS} == modules - {"__init__", "__main__", "clock"}
