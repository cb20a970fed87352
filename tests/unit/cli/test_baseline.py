"""`optcc check` against a baseline, its reports, and the pytest fixture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from optcc.diff.accuracy import AccuracyChange
from optcc.diff.baseline import judge
from tests.unit.cli.conftest import Cli


@pytest.fixture(scope="module")
def kept(compiled: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A baseline of the artifact."""
    from optcc.cli.main import main

    file = tmp_path_factory.mktemp("baseline") / "model.json"
    assert main(["check", str(compiled), str(model), "--write-baseline", str(file)]) == 0
    return file


def test_the_same_artifact_is_no_worse(
    cli: Cli, compiled: Path, model: Path, kept: Path, tmp_path: Path
) -> None:
    junit, markdown = tmp_path / "c.xml", tmp_path / "c.md"
    files = ("--junit", junit, "--markdown", markdown)
    told = cli("check", compiled, model, "--baseline", kept, *files, "--json")
    assert told.code == 0
    assert told.data["baseline"]["status"] == "ok"
    assert {row["text"] for row in told.data["baseline"]["rows"]} == {"prose", "code", "total", "artifact"}
    assert ElementTree.parse(junit).getroot().get("failures") == "0"
    assert "| kl of prose |" in markdown.read_text()


def test_a_worse_one_fails_and_other_tokens_are_not_compared(
    cli: Cli, compiled: Path, model: Path, kept: Path, tmp_path: Path
) -> None:
    """The baseline is made better than what is measured: by a KL of 0.01 in every window."""
    data = json.loads(kept.read_text())
    for text in data["measurements"]["texts"]:
        for i, window in enumerate(text["windows"]):
            window["nll"] -= 1.0 + 0.001 * i
    better = tmp_path / "better.json"
    better.write_text(json.dumps(data))
    told = cli("check", compiled, model, "--baseline", better)
    assert told.code == 1
    assert "✗ fail" in told.out
    assert "baseline: failed" in told.out
    told = cli("check", compiled, model, "--baseline", kept, "--tokens", 128, "--json")
    assert (told.code, told.data["status"], told.data["baseline"]["status"]) == (1, "ok", "undecided")
    assert told.data["baseline"]["reason"] == "other tokens were compared on prose, code"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": 99, "measurements": {}}'])
def test_what_is_no_baseline(cli: Cli, compiled: Path, model: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "b.json"
    file.write_text(text)
    told = cli("check", compiled, model, "--baseline", file, "--json")
    assert (told.code, told.error["code"]) == (2, "E802")


def change(metric: str, left: float, difference: float, half: float | None) -> AccuracyChange:
    low, high = (None, None) if half is None else (difference - half, difference + half)
    return AccuracyChange("prose", metric, left, left + difference, difference, low, high, "undecided")


@pytest.mark.parametrize(
    ("metric", "left", "difference", "half", "outcome"),
    [
        ("kl", 0.1, 0.0, 0.0, "pass"),
        ("kl", 0.1, 0.005, 0.004, "pass"),  # a tenth of 0.1 is allowed
        ("kl", 0.1, 0.009, 0.004, "undecided"),
        ("kl", 0.1, 0.02, 0.004, "fail"),
        ("kl", 0.1, -0.02, 0.004, "pass"),
        ("kl", 0.1, 0.02, None, "undecided"),
        ("top1", 0.9, -0.005, 0.004, "pass"),
        ("top1", 0.9, -0.05, 0.004, "fail"),
        ("top1", 0.9, 0.05, 0.004, "pass"),
        ("sqnr", 30.0, -0.4, 0.05, "pass"),
        ("sqnr", 30.0, -1.0, 0.05, "fail"),
    ],
)
def test_verdicts_are_three(
    metric: str, left: float, difference: float, half: float | None, outcome: str
) -> None:
    assert judge(change(metric, left, difference, half)).outcome == outcome


def test_the_fixture_asserts_in_one_line(pytester: Any, compiled: Path, model: Path, kept: Path) -> None:
    call = f"optcc_check({str(compiled)!r}, {str(model)!r}"
    pytester.makepyfile(
        f"""
        def test_good(optcc_check):
            {call}, kl=1e-4, baseline={str(kept)!r})

        def test_bad(optcc_check):
            {call}, ppl_ratio=0.5)
        """
    )
    result = pytester.runpytest_inprocess("-p", "optcc.testing", "--junitxml=out.xml")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*prose: ppl_ratio <= 0.5 fail: measured*"])
    names = {p.get("name") for p in ElementTree.parse(pytester.path / "out.xml").iter("property")}
    assert "optcc prose kl" in names
