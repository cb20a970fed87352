"""One contestant, one thread count, one round: a worker from start to end, and what was seen meanwhile."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.cpu.contestants import Contestant
from benchmarks.cpu.inputs import Inputs
from benchmarks.cpu.machine import CpuTimes, MemoryWatch, load_average, wait_until_quiet
from benchmarks.cpu.worker import Worker
from benchmarks.cpu.workload import Operation, OperationName, Workload

MOST_OTHERS = 0.05
"""Share of the CPUs that others may use during a measurement that counts as undisturbed."""


@dataclass(frozen=True)
class Attempt:
    """An operation done once: seconds of every repetition, and what the machine did meanwhile.

    Attributes:
        seconds: of every repetition.
        others: share of the CPUs that other processes used during it.
        load_before, load_after: the machine's load average.
    """

    seconds: tuple[float, ...]
    others: float
    load_before: float
    load_after: float

    @property
    def quiet(self) -> bool:
        """Whether others left the CPUs alone."""
        return self.others <= MOST_OTHERS


@dataclass(frozen=True)
class Visit:
    """All that one worker gave.

    Attributes:
        contestant: its name.
        version: of the engine.
        threads, round_number: which visit.
        figures: by metric.
        disturbed: metrics whose operation was never undisturbed.
        attempts: every attempt of every operation, those that don't count too.
    """

    contestant: str
    version: str
    threads: int
    round_number: int
    figures: dict[str, float]
    disturbed: tuple[str, ...]
    attempts: dict[str, list[Attempt]]


_DEPENDS: dict[str, tuple[OperationName, ...]] = {
    "decode": ("answer", "first64"),
    "first64": ("first64",),
    "first512": ("first512",),
    "prefill": ("first512",),
    "requests4": ("requests4",),
    "requests16": ("requests16",),
}


def visit(
    contestant: Contestant, inputs: Inputs, workload: Workload, threads: int, round_number: int, log: Path
) -> Visit:
    """Start a worker, let it load and do every operation, end it. Raises WorkerFailed."""
    deadline = time.monotonic() + workload.patience
    wait_until_quiet(None, MOST_OTHERS, workload.patience)
    load_before, before = load_average(), CpuTimes.read()
    with Worker(contestant, log) as worker:
        opened = worker.open(threads)
        others = CpuTimes.read(worker.pid).others_since(before)
        opening = Attempt((opened["load_seconds"],), others, load_before, load_average())
        watch = MemoryWatch(worker.pid)
        for operation in workload.warm_up(inputs):
            _ask(worker, operation)
        attempts = {
            operation.name: _attempts(worker, operation, workload.attempts, deadline)
            for operation in workload.operations(inputs, round_number)
        }
        resident, anonymous = watch.stop()
    chosen = {name: best_attempt(tried) for name, tried in attempts.items()}
    figures = workload.figures({name: median(attempt.seconds) for name, attempt in chosen.items()})
    figures |= {
        "load": opened["load_seconds"],
        "ready": opened["ready_seconds"],
        "resident": resident / 1e6,
        "anonymous": anonymous / 1e6,
        "disk": contestant.disk_bytes() / 1e6,
    }
    disturbed = [key for key, names in _DEPENDS.items() if not all(chosen[name].quiet for name in names)]
    if not opening.quiet:
        disturbed += ["load", "ready"]
    return Visit(
        contestant.name,
        opened["version"],
        threads,
        round_number,
        figures,
        tuple(disturbed),
        {"load": [opening], **{str(name): tried for name, tried in attempts.items()}},
    )


def best_attempt(attempts: list[Attempt]) -> Attempt:
    """The first undisturbed one; where there is none, the least disturbed."""
    return next((one for one in attempts if one.quiet), min(attempts, key=lambda one: one.others))


def score(contestant: Contestant, inputs: Inputs, workload: Workload, threads: int, log: Path) -> list[float]:
    """Mean negative log-likelihood in nats of every window, in a process of its own.

    Logits of whole windows would count as the engine's memory elsewhere. Raises WorkerFailed.
    """
    windows = inputs.windows[: workload.windows or None]
    with Worker(contestant, log) as worker:
        worker.open(threads)
        answer = worker.ask(do="score", windows=windows)
    return [nats / (len(window) - 1) for nats, window in zip(answer["nll"], windows, strict=True)]


def _attempts(worker: Worker, operation: Operation, most: int, deadline: float) -> list[Attempt]:
    """Until one is undisturbed, `most` times at most; waits for a quiet machine before each until the deadline."""
    tried: list[Attempt] = []
    while len(tried) < most and not (tried and tried[-1].quiet):
        wait_until_quiet(worker.pid, MOST_OTHERS, deadline - time.monotonic())
        load_before, before = load_average(), CpuTimes.read(worker.pid)
        seconds = _ask(worker, operation)
        others = CpuTimes.read(worker.pid).others_since(before)
        tried.append(Attempt(seconds, others, load_before, load_average()))
    return tried


def _ask(worker: Worker, operation: Operation) -> tuple[float, ...]:
    answer = worker.ask(
        do="generate", prompts=operation.prompts, new_tokens=operation.new_tokens, times=operation.times
    )
    return tuple(answer["seconds"])
