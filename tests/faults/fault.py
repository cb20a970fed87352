"""A fault: one mistake that somebody could make in a pass, a kernel, the runtime or the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.faults.plant import Planting

Place = Literal["quantizer", "pass", "lowering", "kernel", "runtime", "weights", "tokenizer", "data"]
STRUCTURE = ("fp32", "int8", "int4")
QUANTIZED = ("int8", "int4")


@dataclass(frozen=True)
class Fault:
    """One mistake.

    Attributes:
        name: unique, in a few words.
        place: where it strikes.
        plant: puts it there for the duration of one compile.
        model: which of the zoo's models has the feature that breaks.
        recipes: the recipes of `bench.RECIPES` under which it can happen.
    """

    name: str
    place: Place
    plant: Callable[[Planting], None]
    model: str = "llama"
    recipes: tuple[str, ...] = STRUCTURE


@dataclass(frozen=True)
class Outcome:
    """What the gates said about one fault under one recipe, or about none.

    Attributes:
        fault: its name; empty for a compile without one.
        model, seed: of tests/faults/models.py.
        caught: whether the compile failed.
        by: error code, or the metrics whose limits failed; `passed` if nothing did.
        figure: the measured values that failed, or the error's text; of a pass, all values and their limits.
        seconds: of the compile.
    """

    fault: str
    model: str
    recipe: str
    seed: int
    caught: bool
    by: str
    figure: str
    seconds: float = 0.0
