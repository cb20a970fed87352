"""Captured zoo models, each captured once per session."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor

from optcc.ir.interpret import interpret
from optcc.ir.module import Module
from tests import shared, zoo


@dataclass(frozen=True)
class Captured:
    """A captured model; tests work on clones of `module`.

    Attributes:
        facts: what the configuration implies.
        inputs: a ragged step of three requests.
        logits: of the captured program on `inputs`.
    """

    module: Module
    facts: Mapping[str, int]
    inputs: Mapping[str, Tensor]
    logits: Tensor

    def error(self, module: Module) -> float:
        """Largest difference of a module's logits, relative to the largest logit."""
        found = interpret(module, self.inputs)["logits"]
        return float((found - self.logits).abs().max() / self.logits.abs().max())


Capture = Callable[[str], Captured]


def step() -> dict[str, Tensor]:
    """A ragged step: requests of 24, 1 and 7 tokens, all rows wanted but two."""
    lengths = [zoo.TEXT, 1, 7]
    rows = [r for r in range(sum(lengths)) if r not in (3, 26)]
    return {
        "input_ids": torch.cat([zoo.text(n, seed) for seed, n in enumerate(lengths)]),
        "position_ids": torch.cat([torch.arange(n) for n in lengths]),
        "query_starts": torch.tensor([0, 24, 25, 32], dtype=torch.int32),
        "logit_rows": torch.tensor(rows),
    }


@pytest.fixture(scope="session")
def captured() -> Capture:
    """Capture a zoo model by name."""

    @cache
    def get(name: str) -> Captured:
        found, inputs = shared.captured(name), step()
        return Captured(found.module, found.facts, inputs, interpret(found.module, inputs)["logits"])

    return get
