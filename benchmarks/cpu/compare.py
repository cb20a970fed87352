"""The comparison itself: rounds in which every contestant runs, in a rotated order, then one score of each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from benchmarks.cpu.contestants import ROOT, Contestant, Place
from benchmarks.cpu.inputs import Inputs
from benchmarks.cpu.machine import wait_until_quiet
from benchmarks.cpu.measure import MOST_OTHERS, score, visit
from benchmarks.cpu.results import Results
from benchmarks.cpu.steps import Tell
from benchmarks.cpu.worker import WorkerFailed
from benchmarks.cpu.workload import Workload

Item = TypeVar("Item")


@dataclass(frozen=True)
class Comparison:
    """Who does what.

    Attributes:
        contestants: who takes part.
        inputs, workload: what each does.
        threads: with how many threads, one after the other.
        results: filled as it goes.
        logs: folder of the workers' logs.
        keep: writes what there is so far; called after every visit.
        tell: says how it goes.
    """

    contestants: Sequence[Contestant]
    inputs: Inputs
    workload: Workload
    threads: Sequence[int]
    results: Results
    logs: Path
    keep: Callable[[], None]
    tell: Tell

    def run(self) -> None:
        """All rounds, then the scores. A contestant that fails is named with its reason and left out from there on."""
        for round_number in range(self.workload.rounds):
            for threads in rotated(self.threads, round_number):
                wait_until_quiet(None, MOST_OTHERS, self.workload.patience)
                self.results.limits.append(machine_limits(threads))
                for contestant in rotated(self.contestants, round_number):
                    self._visit(contestant, threads, round_number)
        for contestant in self.contestants:
            self._score(contestant)
        visited = {one.contestant for one in self.results.visits}
        self.results.contestants = [name for name in self.results.contestants if name in visited]
        self.keep()

    def _visit(self, contestant: Contestant, threads: int, round_number: int) -> None:
        if contestant.name in self.results.unavailable:
            return
        log = self._log(contestant)
        try:
            seen = visit(contestant, self.inputs, self.workload, threads, round_number, log)
        except WorkerFailed as error:
            self._give_up(contestant, error)
            return
        self.results.visits.append(seen)
        shown = ("decode", "prefill", "requests16", "load", "anonymous")
        figures = ", ".join(f"{key} {seen.figures[key]:.4g}" for key in shown if key in seen.figures)
        note = f" (disturbed: {', '.join(seen.disturbed)})" if seen.disturbed else ""
        self.tell(f"round {round_number + 1}, {threads} threads, {contestant.name}: {figures}{note}")
        self.keep()

    def _score(self, contestant: Contestant) -> None:
        if contestant.name in self.results.unavailable:
            return
        log = self._log(contestant)
        try:
            found = score(contestant, self.inputs, self.workload, max(self.threads), log)
        except WorkerFailed as error:
            self._give_up(contestant, error)
            return
        self.results.nll[contestant.name] = found
        self.tell(f"{contestant.name}: mean NLL {self.results.mean_nll(contestant.name):.4f}")
        self.keep()

    def _log(self, contestant: Contestant) -> Path:
        return self.logs / f"{contestant.name.replace('/', '-').replace(' ', '-')}.log"

    def _give_up(self, contestant: Contestant, error: WorkerFailed) -> None:
        self.results.unavailable[contestant.name] = str(error)
        self.tell(str(error))
        self.keep()


def rotated(items: Sequence[Item], by: int) -> Iterator[Item]:
    """All items, starting later by `by`: nobody is always first."""
    for i in range(len(items)):
        yield items[(i + by) % len(items)]


def machine_limits(threads: int) -> dict[str, float]:
    """From a process of its own, as torch's memory and threads shouldn't stay."""
    command = [sys.executable, "-m", "benchmarks.cpu.limits", str(threads)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def facts(place: Place, inputs: Inputs, workload: Workload) -> dict[str, object]:
    """What the figures hold for."""
    from optcc.backends.onnxruntime import native
    from optcc.host import host_facts

    status = native.status()
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit,
        "native": status.isa or f"none ({status.reason})",
        "model": place.gguf.name,
        "inputs": inputs.digest,
        "host": host_facts(),
        "processors": os.cpu_count(),
        "workload": asdict(workload),
    }
