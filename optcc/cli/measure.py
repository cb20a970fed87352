"""The measurements of `optcc bench offline`: an executor in, rates and waits out. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from optcc.errors import PromptTooLong

if TYPE_CHECKING:
    from optcc.runtime import Engine, Executor, FinishedEvent

_SEED = 17


@dataclass(frozen=True)
class Load:
    """A round: `requests` prompts of `prompt_tokens` that are answered with `new_tokens` each."""

    requests: int
    prompt_tokens: int
    new_tokens: int
    rounds: int


def measure(executor: Executor, load: Load, watch: Callable[[str, int, int], None]) -> dict[str, Any]:
    """Run one round to warm up and `load.rounds` that count.

    Returns:
        `prefill`, `decode`, `throughput` in tokens/s, `time_to_first_token` and `inter_token` in seconds as
        p50 and p99; each {median, low, high} over the rounds.

    Raises:
        PromptTooLong: prompt and answer exceed the context.
    """
    from optcc.memory import MemoryMeter
    from optcc.runtime import Engine

    spec, meter = executor.spec, MemoryMeter()
    length = load.prompt_tokens + load.new_tokens
    if length > spec.max_context:
        raise PromptTooLong(
            f"{load.prompt_tokens} + {load.new_tokens} tokens exceed the context of {spec.max_context}",
            hint="lower --prompt-tokens or --new-tokens",
        )
    engine = Engine(executor, blocks=spec.blocks_for(length) * load.requests)
    prompts = _prompts(spec.vocab, load)
    rounds = []
    for number in range(load.rounds + 1):
        rounds.append(_round(engine, prompts, load))
        watch("warm-up" if number == 0 else f"round {number}", number + 1, load.rounds + 1)
    counted = rounds[1:]  # the first one warms caches

    def summary(key: str) -> dict[str, float]:
        values = [row[key] for row in counted]
        return {"median": median(values), "low": min(values), "high": max(values)}

    return {
        "load": asdict(load),
        "prefill": summary("prefill"),
        "decode": summary("decode"),
        "throughput": summary("throughput"),
        "time_to_first_token": {"p50": summary("first_p50"), "p99": summary("first_p99")},
        "inter_token": {"p50": summary("gap_p50"), "p99": summary("gap_p99")},
        "peak_bytes": meter.peak(),
    }


def _prompts(vocab: int, load: Load) -> list[list[int]]:
    """Seeded random tokens: the same in every run."""
    import numpy as np

    generator = np.random.Generator(np.random.Philox(_SEED))
    found: list[list[int]] = generator.integers(0, vocab, (load.requests, load.prompt_tokens)).tolist()
    return found


def _round(engine: Engine, prompts: Sequence[Sequence[int]], load: Load) -> dict[str, float]:
    alone = _answer(engine, prompts[:1], load)[0].timing
    began = time.perf_counter()
    together = [event.timing for event in _answer(engine, prompts, load)]
    seconds = time.perf_counter() - began
    first = [t.time_to_first_token or 0.0 for t in together]
    gaps = [gap for t in together for gap in t.inter_token]
    return {
        "prefill": load.prompt_tokens / (alone.time_to_first_token or 1e-9),
        "decode": (load.new_tokens - 1) / max(alone.tokens[-1] - alone.tokens[0], 1e-9),
        "throughput": load.requests * load.new_tokens / seconds,
        "first_p50": quantile(first, 0.5),
        "first_p99": quantile(first, 0.99),
        "gap_p50": quantile(gaps, 0.5),
        "gap_p99": quantile(gaps, 0.99),
    }


def _answer(engine: Engine, prompts: Sequence[Sequence[int]], load: Load) -> list[FinishedEvent]:
    from optcc.runtime import StopConditions

    stop = StopConditions(max_tokens=load.new_tokens, eos_token_ids=())
    return engine.generate(prompts, stop=stop)


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values don't exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]
