"""Every fault fails the compile, at the limits that recipes have by themselves. `make test` plants a few."""

from __future__ import annotations

import pytest

from tests.faults.bench import Bench
from tests.faults.catalogue import FAULTS
from tests.faults.fault import Fault

SAMPLE = {
    ("scale doubled, one layer", "int4"),
    ("no-op quantizer", "int8"),
    ("gate and up swapped", "int4"),
    ("norm epsilon x 1000, one layer", "int4"),
    ("lowered norm epsilon x 1000", "int8"),
    ("a chunk forgets the earlier ones", "int8"),
    ("a block given to two requests", "int8"),
    ("wrong tokenizer of the same size", "int8"),
}
CASES = [(fault, recipe) for fault in FAULTS for recipe in fault.recipes]


def test_names_are_unique_and_the_sample_is_of_them() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names)
    assert {(fault.name, recipe) for fault, recipe in CASES} >= SAMPLE


@pytest.mark.parametrize(
    ("fault", "recipe"),
    [
        pytest.param(
            fault,
            recipe,
            id=f"{fault.name}-{recipe}",
            marks=() if (fault.name, recipe) in SAMPLE else pytest.mark.prove,
        )
        for fault, recipe in CASES
    ],
)
def test_fault_is_caught(bench: Bench, fault: Fault, recipe: str) -> None:
    outcome = bench.judge(fault, recipe)
    print(f"{outcome.by}: {outcome.figure}")
    assert outcome.caught, f"{fault.name} under {recipe}: {outcome.by}: {outcome.figure}"
