"""Many architectures and closures: directions, descent and paths, and a table of all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from tests.helpers import tally
from tests.trust.architectures import CASES, Case
from tests.trust.architectures.case import CHECKS
from tests.trust.architectures.checks import ROWS, run
from tests.trust.architectures.known import KNOWN, known_defect
from tests.trust.architectures.table import Table


def expected_failures(case: str, check: str) -> list[pytest.MarkDecorator]:
    """Of a known defect; once the check passes, the suite fails until the entry is removed."""
    reason = known_defect(case, check)
    return [] if reason is None else [pytest.mark.xfail(strict=True, reason=reason)]


def checked(cases: Sequence[Case]) -> list[object]:
    """Each check of each case; those that are known to fail must fail."""
    return [
        pytest.param(
            case,
            check,
            id=f"{case.name}, {check}",
            marks=expected_failures(case.name, check),
        )
        for case in cases
        for check in CHECKS
    ]


@pytest.fixture(scope="module", autouse=True)
def table(request: pytest.FixtureRequest, float64: None) -> Iterator[None]:
    """Print the table at the end of the run."""
    manager = request.config.pluginmanager
    manager.register(Table(), "architectures")
    yield
    rows = list(ROWS.values())
    for name in CHECKS:
        tally(f"architectures, {name}", len(rows), sum(name in row.passed for row in rows))
    tally("architectures", len(rows), sum(row.passed == set(CHECKS) for row in rows))


def test_every_case_has_its_own_name() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


def test_every_known_defect_is_that_of_a_case() -> None:
    listed = list(KNOWN.values())
    assert {check for checks in listed for check in checks} <= set(CHECKS)
    named = {name for checks in listed for names in checks.values() for name in names}
    assert named <= {case.name for case in CASES}


@pytest.mark.parametrize(("case", "check"), checked([case for case in CASES if case.quick]))
def test_a_few_architectures(case: Case, check: str) -> None:
    run(case, check)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "check"), checked(CASES))
def test_every_architecture(case: Case, check: str) -> None:
    run(case, check)
