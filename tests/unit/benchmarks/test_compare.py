"""A whole comparison over fake peers: rounds, order, failures, files."""

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cpu.__main__ import main, write_report
from benchmarks.cpu.compare import Comparison, rotated
from benchmarks.cpu.inputs import Inputs
from benchmarks.cpu.results import Results
from benchmarks.cpu.table import page
from benchmarks.cpu.workload import Workload
from tests.needs import package
from tests.unit.benchmarks.conftest import make_contestant

INPUTS = Inputs([[1] * 64] * 16, [[2] * 512] * 8, [[3] * 512] * 16, "d")
HOST = {"cores": 2, "cpu": "a CPU", "cpu_flags": ["avx2"], "memory": 2**34, "system": "Linux"}
LIMITS = {"read_gb_s": 30.0, "fp32_gops": 90.0}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Results:
    """Two rounds of optcc, a peer that is slower and one that crashes."""
    monkeypatch.setattr(
        "benchmarks.cpu.compare.machine_limits", lambda threads: {"threads": threads, **LIMITS}
    )
    monkeypatch.setattr("benchmarks.cpu.measure.wait_until_quiet", lambda *_: 0.0)
    monkeypatch.setattr("benchmarks.cpu.compare.wait_until_quiet", lambda *_: 0.0)
    workload = Workload(rounds=2, decode_tokens=4, answer_tokens=3, repeats=1, attempts=1)
    contestants = [
        make_contestant(tmp_path / "a", "optcc/fast", delay="0.002"),
        make_contestant(tmp_path / "b", "slow/int8", delay="0.02"),
        make_contestant(tmp_path / "c", "bad/int4", behaviour="crash"),
    ]
    facts: dict[str, Any] = {
        "date": "2026-01-02 03:04 UTC",
        "commit": "abc",
        "native": "avx2",
        "model": "m.gguf",
        "host": HOST,
    }
    facts["workload"] = vars(workload)
    found = Results(facts, [one.name for one in contestants], {"vllm": "step `install` failed"})
    out = tmp_path / "out.json"
    told: list[str] = []
    Comparison(
        contestants, INPUTS, workload, [2], found, tmp_path / "logs", lambda: found.write(out), told.append
    ).run()
    assert [re.split(": ", text)[0] for text in told] == [
        "round 1, 2 threads, optcc/fast",
        "round 1, 2 threads, slow/int8",
        "bad/int4",
        "round 2, 2 threads, slow/int8",
        "round 2, 2 threads, optcc/fast",
        "optcc/fast",
        "slow/int8",
    ]
    assert Results.read(out) == found
    return found


def test_rounds_figures_and_failures(results: Results) -> None:
    assert results.contestants == ["optcc/fast", "slow/int8"]
    assert sorted(results.unavailable) == ["bad/int4", "vllm"]
    assert "ended with code 7" in results.unavailable["bad/int4"]
    assert [one.round_number for one in results.visits] == [0, 0, 1, 1]
    assert results.nll == {"optcc/fast": [2.5] * 16, "slow/int8": [2.5] * 16}
    first = results.visits[0].figures
    assert 2 <= first["first64"] < 20, "milliseconds"
    assert first["disk"] == 0.001
    assert results.limits == [{"threads": 2, **LIMITS}] * 2
    ratio = results.ratio("optcc/fast", "slow/int8", 2, "first64")
    assert ratio is not None
    assert ratio.value > 2
    assert ratio.ahead


def test_the_page_says_all(results: Results) -> None:
    text = page(results)
    assert "# optcc and its peers on one CPU, 2026-01-02" in text
    assert "| mean NLL, nats | 2.5000 | 2.5000 |" in text
    assert "| optcc/fast | slow/int8 ≤ | best of those marked ≤ | best of any |" in text
    assert re.search(r"\| first token after 64 \| \*\*[\d.]+ \[[\d.]+, [\d.]+\]\*\* \|", text)
    assert "| their mean NLL less ours, nats | +0.0000 [+0.0000, +0.0000] |  |  |" in text
    assert "- vllm: step `install` failed" in text
    assert "- bad/int4: bad/int4: ended with code 7" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| decode,")}
    assert widths == {4, 5}, "every row has all its cells"


def test_the_plot_is_written_and_says_the_same_again(results: Results, tmp_path: Path) -> None:
    package("matplotlib")
    write_report(results, tmp_path / "out.json")
    first = (tmp_path / "out.svg").read_bytes()
    assert main(["report", str(tmp_path / "out.json")]) == 0
    assert (tmp_path / "out.svg").read_bytes() == first
    assert (tmp_path / "out.md").read_text() == page(results)


def test_orders_rotate() -> None:
    assert [list(rotated("abc", by)) for by in range(4)] == [list(s) for s in ("abc", "bca", "cab", "abc")]


def test_unknown_peers_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--peers", "openvinno", "--out", str(tmp_path / "x")]) == 2
    assert "unknown peer 'openvinno'; there are optcc, openvino" in capsys.readouterr().err
