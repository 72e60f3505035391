"""The page of the theory's claims: its table, and the scripts that write it."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from examples.paper import __main__ as program
from examples.paper import report
from examples.paper.g_training import PublishedDamping
from tests.damping.test_rules import ATTEMPT, SCALE, STEP
from torch_newton.damping import RetryingRule

pytestmark = pytest.mark.usefixtures("float64")


def test_page_has_a_section_and_a_picture_for_every_script() -> None:
    page = program.PAGE.read_text()
    for name in program.SCRIPTS:
        script = importlib.import_module(f"examples.paper.{name}")
        assert f"### ({name[0]}) {script.TITLE}\n" in page
        assert f"pictures/{name}.png" in page
        assert (report.PICTURES / f"{name}.png").stat().st_size < 200_000


def test_a_script_replaces_its_own_section_and_no_other() -> None:
    page = program.PAGE.read_text()
    claim = report.Claim("a new claim", "1", "2", True)
    changed = program.replaced(page, "c", report.section("c_frequencies", "New title", [claim]))
    assert "| a new claim | 1 | 2 | yes |" in changed
    old, new = page.splitlines(), changed.splitlines()
    at = next(i for i, line in enumerate(old) if line.startswith("### (c)"))
    end = next(i for i, line in enumerate(old) if line.startswith("### (d)"))
    assert new[:at] == old[:at]
    assert new[-(len(old) - end) :] == old[end:]
    section = page[page.index("### (c)") : page.index("### (d)")]
    assert program.replaced(changed, "c", section) == page


@pytest.mark.parametrize("name", program.SCRIPTS)
def test_every_script_has_its_title_and_measurement(name: str) -> None:
    script = importlib.import_module(f"examples.paper.{name}")
    assert script.TITLE
    assert f"python -m examples.paper {name[0]}" in script.__doc__
    assert callable(script.measure)


def test_a_script_prints_its_claims_and_saves_its_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from examples.paper import b_spectra

    monkeypatch.setattr(report, "PICTURES", tmp_path)
    section = report.run("b_spectra", b_spectra.TITLE, b_spectra.measure)
    printed = capsys.readouterr().out
    assert "DOES NOT HOLD" not in printed
    assert printed.count("holds") == 12
    assert (tmp_path / "b_spectra.png").stat().st_size > 10_000
    assert section.count("| yes |") == 12


def test_a_claim_that_fails_is_shown_as_failing() -> None:
    assert report.near("slope", -0.5, -0.48, 0.05).row() == "| slope | -0.5 | -0.48 ± 0.05 | yes |"
    assert report.near("slope", -0.4, -0.48, 0.05).row().endswith("| **no** |")
    assert report.Claim("loss", "1", "2", None).row().endswith("| not tested |")


def test_published_damping_is_as_published() -> None:
    rule = PublishedDamping()
    assert isinstance(rule, RetryingRule)
    assert rule(None, SCALE) == 1e-8
    assert rule(STEP, SCALE) == pytest.approx(0.8 * STEP.damping)
    assert rule.retry(0.5, ATTEMPT, SCALE) == 1.0
    assert rule.retry(80.0, ATTEMPT, SCALE) == 100.0
    assert not rule.accepts(ATTEMPT)
