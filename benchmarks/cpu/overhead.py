"""What a step of many requests takes besides the model: choosing tokens, and deciding who runs next and telling them.

    python -m benchmarks.cpu.overhead ARTIFACT [--requests 16] [--prompt 64] [--tokens 200] [--rounds 5] [--threads 2]
    [--json FILE]

An engine serves requests that all decode, with and without their text; each way to choose tokens in turn. Of a step,
`sample` is the executor's choice, `schedule` is all that the engine does besides it and the executor's run: the plan,
blocks, arrays, text and events. Median and range of the middle half of steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optcc.cli.opening import open_running
from optcc.host import read_cpu
from optcc.runtime import Engine, Request, SamplingParams, StopConditions
from optcc.runtime.executor import Executor
from optcc.runtime.tokenizer import Tokenizer

CHOICES = {
    "greedy": SamplingParams(),
    "top-k 50": SamplingParams(temperature=0.8, top_k=50),
    "top-p 0.9": SamplingParams(temperature=0.8, top_p=0.9),
    "top-k 50, top-p 0.9": SamplingParams(temperature=0.8, top_k=50, top_p=0.9),
}
Quartiles = tuple[float, float, float]


@dataclass(frozen=True)
class Cost:
    """Of a step: milliseconds, quarter by quarter."""

    choice: str
    text: bool
    run: Quartiles
    sample: Quartiles
    schedule: Quartiles
    both: Quartiles


class Timed:
    """An executor that knows how long its last run and choice took."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.run = self.chose = 0.0
        self.step = self._timed(executor.step, "run")
        self.sample = self._timed(executor.sample, "chose")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def _timed(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def timed(*given: Any) -> Any:
            start = time.perf_counter()
            result = call(*given)
            setattr(self, name, time.perf_counter() - start)
            return result

        return timed


def measure(
    executor: Executor, tokenizer: Tokenizer | None, choice: str, given: argparse.Namespace
) -> list[Any]:
    """Of each step in which all requests decode: seconds of the run, the choice and the rest."""
    timed, spec = Timed(executor), executor.spec
    blocks = given.requests * spec.blocks_for(given.prompt + given.tokens)
    engine = Engine(timed, blocks=blocks, tokenizer=tokenizer)
    rng = np.random.default_rng(0)
    for _ in range(given.requests):
        prompt = tuple(rng.integers(0, spec.vocab, given.prompt).tolist())
        engine.submit(Request(prompt, CHOICES[choice], StopConditions(given.tokens, eos_token_ids=())))
    found = []
    while engine.has_work:
        states = engine.scheduler.running
        decoding = len(states) == given.requests and all(state.decoding for state in states)
        start = time.perf_counter()
        events = engine.step()
        total = time.perf_counter() - start
        if decoding and len(events) == given.requests:
            found.append((timed.run, timed.chose, total - timed.run - timed.chose))
    return found


def quartiles(seconds: Sequence[float]) -> Quartiles:
    """In milliseconds: the median second."""
    low, middle, high = statistics.quantiles((s * 1e3 for s in seconds), n=4)
    return low, middle, high


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    _, executor = open_running(given.artifact, force=False, threads=given.threads)
    tokenizer = Tokenizer.load(given.artifact / "tokenizer")
    found: dict[tuple[str, bool], list[Any]] = {(c, text): [] for c in CHOICES for text in (False, True)}
    for _ in range(given.rounds):
        for (choice, text), steps in found.items():
            steps += measure(executor, tokenizer if text else None, choice, given)
    executor.close()
    costs = []
    for (choice, text), steps in found.items():
        run, sample, schedule = (quartiles(times) for times in zip(*steps, strict=True))
        cost = Cost(choice, text, run, sample, schedule, quartiles([s + r for _, s, r in steps]))
        costs.append(cost)
        parts = (
            f"{name} {of[1]:.3f} [{of[0]:.3f}, {of[2]:.3f}]"
            for name, of in (("run", run), ("sample", sample), ("schedule", schedule), ("both", cost.both))
        )
        print(f"{choice}{', with text' if text else ''}: {', '.join(parts)} ms", flush=True)
    if given.json:
        facts = {
            "machine": read_cpu(Path("/proc/cpuinfo"))[0],
            "threads": given.threads,
            "requests": given.requests,
        }
        given.json.write_text(json.dumps({**facts, "costs": [asdict(c) for c in costs]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
