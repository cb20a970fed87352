"""Tokens per second before and after: original and artifact in turn, on the same machine and threads.

A glance, not a benchmark: it says whether the artifact is faster here and now. `optcc bench` measures properly.
"""

from __future__ import annotations

import math
from statistics import median
from typing import Any

import numpy as np

from optcc.accuracy.gates import Limit, Verdict, outcome
from optcc.accuracy.intervals import Estimate, t_quantile
from optcc.compile.pair import Pair
from optcc.recipe import SpeedLimit
from optcc.runtime.engine import Engine
from optcc.runtime.executor import ModelSpec
from optcc.runtime.request import StopConditions

_PROMPT = 32
_TOKENS = 16
_ROUNDS = 3
_GATE_ROUNDS = 5


def measure_speed(pair: Pair) -> dict[str, Any]:
    """Prefill and decode speed of one request, the median of three rounds taken in turn, with the range.

    Returns:
        `original` and `artifact`, each with `prefill` and `decode` in tokens/s as {median, low, high};
        and their ratios.
    """
    original, executor = pair.original, pair.decoder
    spec = executor.spec
    prompt, tokens = _sizes(spec)
    prompt_length = len(prompt)
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


def _sizes(spec: ModelSpec) -> tuple[list[int], int]:
    """A prompt of random tokens, and how many tokens answer it."""
    length = max(1, min(_PROMPT, spec.max_context // 2))
    prompt = np.random.Generator(np.random.Philox(5)).integers(0, spec.vocab, length).tolist()
    return prompt, max(2, min(_TOKENS, spec.max_context - length))


def judge_speed(pair: Pair, limit: SpeedLimit) -> Verdict:
    """Hold the ratio of decode speeds, artifact to original, against a limit.

    Both answer the same prompts in turn, some rounds after one that warms up. A round gives one ratio; the interval is
    Student's t over their logarithms, so that twice as fast and half as fast weigh the same.
    """
    original, executor = pair.original, pair.decoder
    prompt, tokens = _sizes(executor.spec)
    each = executor.spec.blocks_for(len(prompt) + tokens) + 1
    engine = Engine(executor, blocks=each * limit.requests)
    stop = StopConditions(max_tokens=tokens, eos_token_ids=())

    def artifact() -> float:
        timings = [event.timing for event in engine.generate([prompt] * limit.requests, stop=stop)]
        return max(t.tokens[-1] for t in timings) - max(t.tokens[0] for t in timings)

    def theirs() -> float:
        times = original.token_times(prompt, tokens, limit.requests)
        return times[-1] - times[0]

    ratios = [math.log(theirs() / max(artifact(), 1e-9)) for _ in range(_GATE_ROUNDS + 1)][1:]
    middle = sum(ratios) / len(ratios)
    variance = sum((r - middle) ** 2 for r in ratios) / (len(ratios) - 1)
    half = t_quantile(len(ratios) - 1) * math.sqrt(variance / len(ratios))
    measured = Estimate(math.exp(middle), math.exp(middle - half), math.exp(middle + half), len(ratios), "t")
    bound = Limit("speed", limit.at_least, "at-least")
    return Verdict(f"decode, {limit.requests} requests", bound, measured, outcome(bound, measured))


def _summary(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "low": min(values), "high": max(values)}
