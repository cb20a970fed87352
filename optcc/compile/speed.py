"""Tokens per second before and after: original and artifact in turn, on the same machine and threads.

A glance, not a benchmark: it says whether the artifact is faster here and now. `optcc bench` measures properly.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from optcc.compile.pair import Pair
from optcc.runtime.engine import Engine
from optcc.runtime.request import StopConditions

_PROMPT = 32
_TOKENS = 16
_ROUNDS = 3


def measure_speed(pair: Pair) -> dict[str, Any]:
    """Prefill and decode speed of one request, the median of three rounds taken in turn, with the range.

    Returns:
        `original` and `artifact`, each with `prefill` and `decode` in tokens/s as {median, low, high};
        and their ratios.
    """
    original, executor = pair.original, pair.decoder
    spec = executor.spec
    prompt_length = max(1, min(_PROMPT, spec.max_context // 2))
    tokens = max(2, min(_TOKENS, spec.max_context - prompt_length))
    prompt = np.random.Generator(np.random.Philox(5)).integers(0, spec.vocab, prompt_length).tolist()
    engine = Engine(executor, blocks=spec.blocks_for(prompt_length + tokens) + 1)

    def artifact(count: int) -> None:
        engine.generate([prompt], stop=StopConditions(max_tokens=count, eos_token_ids=()))

    def reference(count: int) -> None:
        original.answer([prompt], count, ())

    sides = {"original": reference, "artifact": artifact}
    seen: dict[str, dict[str, list[float]]] = {name: {"prefill": [], "decode": []} for name in sides}
    for round_number in range(_ROUNDS + 1):
        for name, run in sides.items():
            first, whole = _timed(run, 1), _timed(run, tokens)
            if round_number:  # the first round warms caches and is not counted
                seen[name]["prefill"].append(prompt_length / first)
                seen[name]["decode"].append((tokens - 1) / max(whole - first, 1e-9))
    result: dict[str, Any] = {n: {k: _summary(v) for k, v in kinds.items()} for n, kinds in seen.items()}
    result["ratio"] = {
        kind: result["artifact"][kind]["median"] / result["original"][kind]["median"]
        for kind in ("prefill", "decode")
    }
    return result | {
        "prompt_tokens": prompt_length,
        "new_tokens": tokens,
        "rounds": _ROUNDS,
        "threads": pair.threads,
    }


def _timed(run: Callable[[int], None], count: int) -> float:
    began = time.perf_counter()
    run(count)
    return time.perf_counter() - began


def _summary(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "low": min(values), "high": max(values)}
