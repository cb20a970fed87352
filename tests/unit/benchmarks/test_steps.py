"""Set-up: what is done once, what makes it be done again, and what a failure says."""

import sys
from pathlib import Path

import pytest

from benchmarks.cpu.contestants import Contestant, Entry, Place, Plan
from benchmarks.cpu.prepare import prepare
from benchmarks.cpu.steps import SetUpFailed, Step, run_steps


def python(name: str, program: str, output: Path, *reads: Path, hint: str = "") -> Step:
    return Step(name, (sys.executable, "-c", program), output, reads, hint=hint)


def append(path: Path) -> str:
    return f"open({str(path)!r}, 'a').write('x')"


def test_a_step_is_done_again_only_when_something_changed(tmp_path: Path) -> None:
    first, second, pins = tmp_path / "first", tmp_path / "second", tmp_path / "pins.txt"
    pins.write_text("numpy==1")
    steps = [python("one", append(first), first, pins), python("two", append(second), second)]
    told: list[str] = []

    def run() -> None:
        run_steps(tmp_path / "peer", steps, told.append)

    run()
    run()
    assert (first.read_text(), second.read_text(), told) == ("x", "x", ["peer: one", "peer: two"])
    pins.write_text("numpy==2")
    run()
    assert (first.read_text(), second.read_text()) == ("xx", "xx"), "what follows a step depends on it"
    second.unlink()
    run()
    assert (first.read_text(), second.read_text()) == ("xx", "x"), "a missing output is made again"


def test_a_failure_names_step_reason_and_log(tmp_path: Path) -> None:
    step = python(
        "install", "print('no such package'); print(); raise SystemExit(3)", tmp_path, hint="ask pip"
    )
    with pytest.raises(SetUpFailed) as caught:
        run_steps(tmp_path / "peer", [step], lambda _: None)
    log = tmp_path / "peer" / "install.log"
    assert (
        str(caught.value) == "step `install` failed (exit 3: no such package); log: peer/install.log; ask pip"
    )
    assert "no such package" in log.read_text()
    with pytest.raises(SetUpFailed, match="left no absent"):
        run_steps(tmp_path / "peer", [python("convert", "", tmp_path / "absent")], lambda _: None)
    with pytest.raises(SetUpFailed, match=r"can't be started: .*No such file"):
        run_steps(tmp_path / "peer", [Step("run", ("/nonexistent",), tmp_path)], lambda _: None)


def test_who_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One peer has no environment, another lacks one of two models; the rest is ready."""
    monkeypatch.setattr(Place, "shared_steps", lambda _: ())

    def entry(peer: str, variant: str, program: str) -> Entry:
        contestant = Contestant(peer, variant, Path(sys.executable), "none", tmp_path)
        return Entry(contestant, (python(variant, program, tmp_path),))

    bad = python("install", "raise SystemExit('no index')", tmp_path)
    plans = [
        Plan("a", (bad,), (entry("a", "int8", ""),)),
        Plan("b", (), (entry("b", "int8", ""), entry("b", "int4", "raise SystemExit('group')"))),
        Plan("c", (), (entry("c", "int8", "raise SystemExit('not wanted')"),)),
    ]
    found, unavailable = prepare(
        Place(tmp_path / "home", tmp_path), plans, lambda n: n[0] != "c", lambda _: None
    )
    assert [contestant.name for contestant in found] == ["b/int8"]
    assert sorted(unavailable) == ["a", "b/int4"]
    assert "no index" in unavailable["a"]
    assert "group" in unavailable["b/int4"]
