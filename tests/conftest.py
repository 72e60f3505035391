"""Fixtures that every room of tests shares, and the tally of robustness at the end of a run."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import pytest
import torch

from tests.helpers import TALLY
from torch_newton.linalg import factored_jacobian

hypothesis.settings.register_profile("quick", deadline=None, max_examples=40, derandomize=True)
hypothesis.settings.load_profile("quick")


@pytest.fixture(scope="module")
def float64() -> Iterator[None]:
    """Double precision for everything that a module of tests makes.

    One thread, because on matrices this small several only wait for each other.
    """
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)


@pytest.fixture(scope="module", params=["as factors", "as a matrix"])
def held(request: pytest.FixtureRequest) -> Iterator[None]:
    """Jacobians in both forms, whatever their size."""
    small = factored_jacobian.SMALL
    factored_jacobian.SMALL = 0 if request.param == "as factors" else 10**9
    yield
    factored_jacobian.SMALL = small


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TALLY:
        terminalreporter.section("robustness")
        for what, (tried, passed) in sorted(TALLY.items()):
            terminalreporter.line(f"{what}: {passed} of {tried}")
