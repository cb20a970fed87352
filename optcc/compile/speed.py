"""Tokens per second before and after: original and artifact in turn, on the same machine and threads.

A glance, not a benchmark: it says whether the artifact is faster here and now. `optcc bench` measures properly.
"""

from __future__ import annotations

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

    def artifact(count: int) -> list[float]:
        stop = StopConditions(max_tokens=count, eos_token_ids=())
        timing = engine.generate([prompt], stop=stop)[0].timing
        return [at - timing.submitted for at in timing.tokens]

    sides = {
        "original": lambda count: original.token_times(prompt, count),
        "artifact": artifact,
    }
    seen: dict[str, dict[str, list[float]]] = {name: {"prefill": [], "decode": []} for name in sides}
    for run in sides.values():  # warms caches and is not counted
        run(2)
    for _ in range(_ROUNDS):
        for name, run in sides.items():
            times = run(tokens)
            seen[name]["prefill"].append(prompt_length / times[0])
            seen[name]["decode"].append((tokens - 1) / max(times[-1] - times[0], 1e-9))
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


def _summary(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "low": min(values), "high": max(values)}
