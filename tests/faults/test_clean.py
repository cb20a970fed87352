"""Without a fault nothing is raised: many architectures, recipes and weights; and verdicts don't depend on the draw."""

from __future__ import annotations

import pytest

from tests.faults.bench import Bench, verdict

NAMES = (
    "llama",
    "qwen2",
    "qwen3",
    "mistral",
    "gemma2",
    "gemma3",
    "phi3",
    "gpt2",
    "gpt_neox",
    "olmo2",
    "granite",
)
SAMPLE = [
    ("llama", "int4", 0),
    ("llama", "int8", 0),
    ("llama", "fp32", 0),
    ("llama", "kv8", 0),
    ("mistral", "int4", 0),
    ("mistral", "fp32", 0),
    ("gpt2", "int8", 0),
    ("gpt2", "int4-gptq", 0),
]
CLEAN = [
    *((name, recipe, 0) for name in NAMES for recipe in ("fp32", "int8", "int4")),
    *(("llama", recipe, seed) for seed in range(20) for recipe in ("fp32", "int8", "int4")),
    *((name, "kv8", 0) for name in ("mistral", "gemma2", "phi3", "olmo2")),
    *((name, "asym", 0) for name in ("llama", "phi3", "gpt_neox")),
    *((name, "int4-gptq", 0) for name in ("llama", "qwen3", "gemma3")),
]
"""103 different ones but for three that are in it twice."""


@pytest.mark.parametrize(
    ("name", "recipe", "seed"),
    [
        *SAMPLE,
        *(
            pytest.param(*case, marks=pytest.mark.prove)
            for case in dict.fromkeys(CLEAN)
            if case not in SAMPLE
        ),
    ],
)
def test_clean_compile_raises_no_alarm(bench: Bench, name: str, recipe: str, seed: int) -> None:
    result = bench.compile(bench.model(name, seed), bench.recipe(recipe))
    failed, by, figure = verdict(result)
    print(figure)
    assert (failed, by) == (False, "passed"), figure
