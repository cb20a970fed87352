"""Without a fault nothing is raised: many architectures, recipes and weights; and verdicts don't depend on the draw."""

from __future__ import annotations

import pytest

from tests.faults.bench import Bench
from tests.faults.clean import CLEAN

SAMPLE = [
    ("llama", "int4", 0),
    ("llama", "kv8", 0),
    ("gpt2", "int8", 0),
]


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
    outcome = bench.clean(name, recipe, seed)
    print(outcome.figure)
    assert not outcome.caught, f"{outcome.by}: {outcome.figure}"
