"""Compiles without a fault: architectures, recipes and weights that must raise no alarm; and seeds."""

from __future__ import annotations

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
CLEAN = [
    *((name, recipe, 0) for name in NAMES for recipe in ("fp32", "int8", "int4")),
    *(("llama", recipe, seed) for seed in range(20) for recipe in ("fp32", "int8", "int4")),
    *((name, "kv8", 0) for name in ("mistral", "gemma2", "phi3", "olmo2")),
    *((name, "asym", 0) for name in ("llama", "phi3", "gpt_neox")),
    *((name, "int4-gptq", 0) for name in ("llama", "qwen3", "gemma3")),
]
"""103 different ones but for three that are in it twice."""
SEEDS = 20
SUBTLE = ("norm epsilon x 1000, one layer", "scale of the neighbouring group", "lowered norm epsilon x 1000")
"""Faults that must be caught whatever the weights."""
