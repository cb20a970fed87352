"""The error of a stored weight is told in units of what rounding to nearest costs."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from optcc.compile.weight_error import weight_error
from optcc.export.stored import StoredWeight
from optcc.ir.module import Module
from optcc.quant.rounding import PackedWeight, round_to_nearest
from optcc.recipe.schemes import WeightFormat

FORM = WeightFormat("int4", 32)


def measured(packed: PackedWeight, original: torch.Tensor) -> tuple[float, float]:
    module = Module()
    for part, tensor in packed.tensors().items():
        module.weights.put(f"w.{part}", tensor)
    rows, width = original.shape
    stored = StoredWeight("w", FORM, rows, width, None, True, False, "w")
    found = weight_error(stored, module, original)
    return found.whole, found.worst


@pytest.fixture
def original() -> torch.Tensor:
    return torch.randn(48, 96, generator=torch.Generator().manual_seed(0))


def test_rounding_to_nearest_is_one(original: torch.Tensor) -> None:
    assert measured(round_to_nearest(original, FORM), original) == pytest.approx((1.0, 1.0))


def test_one_bad_row_shows_in_the_worst_alone(original: torch.Tensor) -> None:
    packed = round_to_nearest(original, FORM)
    values = packed.packed.clone()
    values[7] = values[8]
    whole, worst = measured(dataclasses.replace(packed, packed=values), original)
    assert whole < 3.0 < 8.0 < worst


def test_one_bad_group_of_columns_shows(original: torch.Tensor) -> None:
    packed = round_to_nearest(original, FORM)
    scale = packed.scale.clone()
    scale[:, 1] *= 2
    assert measured(dataclasses.replace(packed, scale=scale), original)[1] > 8.0


def test_what_the_format_holds_exactly_may_not_be_off() -> None:
    original = torch.ones(32, 64)
    packed = round_to_nearest(original, FORM)
    assert measured(packed, original)[1] <= 1.0
    assert measured(dataclasses.replace(packed, scale=packed.scale * 1.1), original)[1] > 50.0
