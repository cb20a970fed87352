"""What a decode step costs as contexts grow: whole steps of an artifact, short and long contexts in turn.

    python -m benchmarks.cpu.context ARTIFACT... [--requests 16] [--contexts 128,2048] [--rounds 20] [--threads 2]
    [--pages served] [--json FILE]

All pages are prefilled. Each request has its own: in order, as an engine hands them out that has just started; served,
as its pool hands them out after hundreds of requests came, grew side by side and went; or anywhere in the pools, which
is the worst there could be. Ratios are those of a round, median and range of their middle half. An artifact's KV type
is the recipe's (`quantize.kv`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from optcc.cli.opening import open_running
from optcc.host import read_cpu
from optcc.runtime import BlockPool
from optcc.runtime.executor import Batch, Executor, ModelSpec

CHUNK = 512
"""Tokens that are prefilled at once."""
IN_ORDER, SERVED, ANYWHERE = "in order", "served", "anywhere"
ORDERS = (IN_ORDER, SERVED, ANYWHERE)
"""Of pages."""
CHURN = 400
"""Requests that came and went before those that are measured."""
SLACK = 1.1
"""Pages that the pool has for each that is held in the end."""


@dataclass(frozen=True)
class Cost:
    """Steps at one context: milliseconds, and how many times the first context's, quarter by quarter."""

    artifact: str
    kv: str
    pages: str
    context: int
    requests: int
    best_ms: float
    median_ms: float
    ratio: tuple[float, float, float]
    token_bytes: int


def served(requests: int, pages: int, rng: np.random.Generator) -> npt.NDArray[np.int32]:
    """Pages [requests, pages] of a pool that has served: prompts and answers of all lengths, each a page at a time."""
    pool = BlockPool(int(requests * pages * SLACK) + 1)  # one more than a single page of a single request
    live: list[tuple[list[int], int]] = []
    whole: list[list[int]] = []
    gone = 0
    while len(whole) < requests:
        last = gone >= CHURN
        prompt = int(rng.integers(1, pages + 1))
        if len(live) + len(whole) < requests and prompt < pool.free_count:
            live.append(
                (pool.allocate(prompt) or [], pages if last else int(rng.integers(prompt, pages + 1)))
            )
        for table, end in [live[i] for i in rng.permutation(len(live))]:
            more = pool.allocate(1, table[-1]) if len(table) < end else None
            if more is not None:
                table += more
                continue
            live.remove((table, end))
            if last and len(table) == pages:
                whole.append(table)
            else:  # done, or there is no page left and it gives up its own
                pool.release(table)
                gone += 1
    return np.array(whole, np.int32)


def pages_of(requests: int, pages: int, seed: int, order: str) -> npt.NDArray[np.int32]:
    """Each request's pages [requests, pages]."""
    rng = np.random.default_rng(seed)
    if order == SERVED:
        return served(requests, pages, rng)
    ids = np.arange(requests * pages, dtype=np.int32)
    return (rng.permutation(ids) if order == ANYWHERE else ids).reshape(requests, pages)


def batch_of(spec: ModelSpec, requests: int, context: int, seed: int, order: str) -> Batch:
    """One token of each request, which then has `context`."""
    rng = np.random.default_rng(seed)
    table = pages_of(requests, spec.blocks_for(context), seed, order)
    rows = np.arange(requests, dtype=np.int64)
    return Batch(
        rng.integers(0, spec.vocab, requests),
        np.full(requests, context - 1, np.int64),
        np.arange(requests + 1, dtype=np.int32),
        np.full(requests, context, np.int32),
        table,
        rows,
    )


def fill(executor: Executor, last: Batch) -> None:
    """Prefill all pages of a batch: memory that nothing was written to is one page of zeros, which caches hold."""
    rng, none = np.random.default_rng(0), np.zeros(0, np.int64)
    for length, pages in zip(last.kv_lengths.tolist(), last.block_table, strict=True):
        for first in range(0, length, CHUNK):
            count = min(CHUNK, length - first)
            executor.step(
                Batch(
                    rng.integers(0, executor.spec.vocab, count),
                    np.arange(first, first + count, dtype=np.int64),
                    np.array([0, count], np.int32),
                    np.array([first + count], np.int32),
                    pages[None],
                    none,
                )
            )


def measure(
    name: str, executor: Executor, requests: int, contexts: Sequence[int], rounds: int, order: str
) -> list[Cost]:
    """All contexts in turn, `rounds` times."""
    spec = executor.spec
    executor.bind(int(requests * spec.blocks_for(max(contexts)) * SLACK) + 1)
    batches = [batch_of(spec, requests, context, i, order) for i, context in enumerate(contexts)]
    fill(executor, batches[int(np.argmax(contexts))])
    for batch in batches:
        executor.step(batch)
    seconds: list[list[float]] = [[] for _ in contexts]
    for _ in range(rounds):
        for found, batch in zip(seconds, batches, strict=True):
            start = time.perf_counter()
            executor.step(batch)
            found.append(time.perf_counter() - start)
    costs = []
    for context, found in zip(contexts, seconds, strict=True):
        low, middle, high = statistics.quantiles([t / s for t, s in zip(found, seconds[0], strict=True)], n=4)
        costs.append(
            Cost(
                *(name, spec.kv_dtype, order, context, requests),
                best_ms=min(found) * 1e3,
                median_ms=statistics.median(found) * 1e3,
                ratio=(low, middle, high),
                token_bytes=spec.block_bytes // spec.block_size,
            )
        )
    return costs


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("artifacts", type=Path, nargs="+")
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--contexts", default="128,2048")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pages", choices=ORDERS, help="one order of pages; all of them unless given")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    found: list[Cost] = []
    for path in given.artifacts:
        _, executor = open_running(path, force=False, threads=given.threads)
        contexts = [int(context) for context in given.contexts.split(",")]
        costs = [
            cost
            for order in ((given.pages,) if given.pages else ORDERS)
            for cost in measure(path.name, executor, given.requests, contexts, given.rounds, order)
        ]
        executor.close()
        for c in costs:
            print(
                f"{c.artifact}, KV in {c.kv}, {c.token_bytes / 1000:.1f} kB a token: "
                f"{c.requests} requests at {c.context}, pages {c.pages}: median {c.median_ms:.1f} ms, "
                f"best {c.best_ms:.1f} ms, {c.ratio[1]:.2f}x [{c.ratio[0]:.2f}, {c.ratio[2]:.2f}]",
                flush=True,
            )
        found += costs
    if given.json:
        machine = read_cpu(Path("/proc/cpuinfo"))[0]
        facts = {"machine": machine, "threads": given.threads, "rounds": given.rounds}
        given.json.write_text(json.dumps({**facts, "costs": [asdict(c) for c in found]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
