"""A hundred and more ways to train, each bit for bit the same under the monitor as without it."""

import math
import re
from collections.abc import Iterator

import pytest

from lightning_callbacks import QUANTITIES, CurvatureMonitor
from tests.callbacks.lightning_helpers import KEYS
from tests.callbacks.setups import BY_KIND, SETUPS, Setup
from tests.callbacks.setups.run import PREFIX, Record, run
from tests.callbacks.setups.setup import ALL, HESSIAN, KERNELS
from tests.callbacks.setups.table import ROWS, Row, Table
from tests.helpers import tally

IDENTICAL = "set-ups trained under the monitor, bit for bit as without it"
MONITORS = {
    "full effort, all quantities": lambda: CurvatureMonitor(
        2, PREFIX, quantities=tuple(QUANTITIES), effort="exact", max_overhead=None
    ),
    "bounded effort": lambda: CurvatureMonitor(2, PREFIX, max_overhead=100.0),
    "defaults": lambda: CurvatureMonitor(log_key_prefix=PREFIX),
}
"""The second plans its effort as the third does, which in runs this short has no time for any."""


@pytest.fixture(scope="module", autouse=True)
def table(request: pytest.FixtureRequest) -> Iterator[None]:
    """Print the table at the end of the run."""
    request.config.pluginmanager.register(Table(), "set-ups")
    yield
    tally(IDENTICAL, len(ROWS), sum(bool(row.same) for row in ROWS.values()))


def cases(setups: list[Setup]) -> list[object]:
    """Those that are known to fail may pass, where the clock decides."""
    return [
        pytest.param(
            setup,
            id=setup.name,
            marks=[pytest.mark.xfail(reason=setup.broken)] if setup.broken else [],
        )
        for setup in setups
    ]


def check(setup: Setup, monitors: list[str]) -> None:
    """Train without a monitor and with some, and compare all that they leave behind."""
    kind = next(kind for kind, setups in BY_KIND.items() if setup in setups)
    row = ROWS.setdefault(setup.name, Row(kind))
    row.same, plain = False, run(setup)
    assert str(plain.raised or "") == "" if not setup.raises else setup.raises in str(plain.raised)
    for name in monitors:
        watched = run(setup, MONITORS[name])
        if name == monitors[0]:
            row.measured, row.warned = watched.measured, len(watched.said)
            expected(setup, watched)
        row.raised |= repr(watched.raised) != repr(plain.raised)
        assert repr(watched.raised) == repr(plain.raised), name
        different = [what for what in plain.state if watched.state[what] != plain.state[what]]
        assert not different, (name, watched.said)
    row.same = True


def expected(setup: Setup, watched: Record) -> None:
    """What is NaN, and that one warning says why."""
    if setup.warns:
        assert sum(bool(re.search(setup.warns, m)) for m in watched.said) == 1, watched.said
    if setup.unmeasured or setup.nan is None:
        return
    of_outputs = ("ntk/", "nntk/", "effective_dimension/", "residual/")  # where the loss has some
    assert set(watched.latest) >= {key for key in KEYS if not key.startswith(of_outputs)}
    largest = watched.latest["hessian/lambda_max"]
    assert math.isnan(largest) == (setup.nan in {ALL, HESSIAN}), watched.said
    assert not math.isinf(largest)
    kernel = watched.latest.get("ntk/lambda_max", 0.0)  # not there without outputs
    assert math.isnan(kernel) == (setup.nan in {ALL, KERNELS}), watched.said


def test_there_are_a_hundred_set_ups_with_names_of_their_own():
    assert len(SETUPS) >= 100
    assert len(SETUPS) == sum(map(len, BY_KIND.values()))


@pytest.mark.parametrize("setup", cases([s for s in SETUPS.values() if s.quick]))
def test_training_is_the_same(setup):
    check(setup, ["full effort, all quantities"])


@pytest.mark.slow
@pytest.mark.parametrize("setup", cases(list(SETUPS.values())))
def test_every_set_up_is_the_same_under_every_monitor(setup):
    check(setup, list(MONITORS))
