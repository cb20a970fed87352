"""Harness and worker talk through real pipes; only the engine behind the worker is arithmetic."""

import dataclasses
import os
import time
from pathlib import Path

import pytest

from benchmarks.cpu.worker import Worker, WorkerFailed
from tests.unit.benchmarks.conftest import make_contestant


def test_a_whole_conversation(tmp_path: Path, log: Path) -> None:
    with Worker(make_contestant(tmp_path / "m", delay="0.02"), log) as worker:
        opened = worker.open(2)
        assert opened["version"] == "1.2"
        assert opened["ready_seconds"] == pytest.approx(opened["import_seconds"] + opened["load_seconds"])
        answer = worker.ask(do="generate", prompts=[[1, 2], [5]], new_tokens=3, times=2)
        assert answer["tokens"] == [[3, 4, 5], [6, 7, 8]]
        assert len(answer["seconds"]) == 2
        assert all(0.02 <= seconds < 5 for seconds in answer["seconds"])
        assert worker.ask(do="score", windows=[[1, 2, 3], [4, 5]]) == {"nll": [5.0, 2.5]}
        pid = worker.pid
    assert not os.path.exists(f"/proc/{pid}")
    text = log.read_text()
    assert "chatter on standard output" in text, "what an engine prints must not reach the protocol"
    assert "and from C" in text


def test_an_error_is_told_and_the_worker_goes_on(tmp_path: Path, log: Path) -> None:
    contestant = make_contestant(tmp_path / "m")
    with Worker(contestant, log) as worker:
        with pytest.raises(WorkerFailed, match="the first request must be `open`"):
            worker.ask(do="score", windows=[[1, 2]])
        worker.open(1)
        with pytest.raises(
            WorkerFailed, match="fake/plain: `sing`: ValueError: unknown request 'sing'; log: "
        ):
            worker.ask(do="sing")
        assert worker.ask(do="score", windows=[[1, 2]]) == {"nll": [2.5]}
    assert "Traceback" in log.read_text()


def test_a_model_that_is_missing(tmp_path: Path, log: Path) -> None:
    contestant = dataclasses.replace(make_contestant(tmp_path / "m"), model=tmp_path / "absent")
    with (
        Worker(contestant, log) as worker,
        pytest.raises(WorkerFailed, match=r"`open`: FileNotFoundError: .*absent"),
    ):
        worker.open(1)


def test_an_engine_that_stops_early_is_no_fast_engine(tmp_path: Path, log: Path) -> None:
    with Worker(make_contestant(tmp_path / "m", behaviour="stop early"), log) as worker:
        worker.open(1)
        with pytest.raises(WorkerFailed, match=r"expected 2 x 3 tokens, the engine gave \[2, 2\]"):
            worker.ask(do="generate", prompts=[[1], [2]], new_tokens=3, times=1)


def test_a_crash_is_told_with_its_exit_code(tmp_path: Path, log: Path) -> None:
    with Worker(make_contestant(tmp_path / "m", behaviour="crash"), log) as worker:
        worker.open(1)
        with pytest.raises(WorkerFailed, match="ended with code 7"):
            worker.ask(do="generate", prompts=[[1]], new_tokens=1, times=1)


def test_a_worker_that_hangs_is_ended(tmp_path: Path, log: Path) -> None:
    contestant = make_contestant(tmp_path / "m", behaviour="hang")
    began = time.monotonic()
    with Worker(contestant, log, timeout=20) as worker:
        worker.open(1)
        worker._timeout = 0.2
        with pytest.raises(WorkerFailed, match="no answer to `generate` in 0 s"):
            worker.ask(do="generate", prompts=[[1]], new_tokens=1, times=1)
        pid = worker.pid
    assert not os.path.exists(f"/proc/{pid}")
    assert time.monotonic() - began < 50


def test_a_worker_is_ended_when_the_harness_fails(tmp_path: Path, log: Path) -> None:
    worker = Worker(make_contestant(tmp_path / "m"), log)
    worker.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert not os.path.exists(f"/proc/{worker.pid}")
