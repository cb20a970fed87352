"""The error of a stored weight is told in units of what rounding to nearest costs."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from optcc.compile.weight_error import plain_error, weight_error
from optcc.export.stored import StoredWeight
from optcc.ir.module import Module
from optcc.quant.rounding import PackedWeight, round_to_nearest
from optcc.recipe.schemes import WeightFormat

FORM = WeightFormat("int4", 32)


def measured(packed: PackedWeight, original: torch.Tensor, form: WeightFormat = FORM) -> tuple[float, float]:
    module = Module()
    for part, tensor in packed.tensors().items():
        module.weights.put(f"w.{part}", tensor)
    rows, width = original.shape
    stored = StoredWeight("w", form, rows, width, None, True, False, "w")
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


@pytest.mark.parametrize("form", [FORM, WeightFormat("int8", 64, rows=128), WeightFormat("e4m3", 0, rows=0)])
def test_pieces_add_up(form: WeightFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large weight is compared piece by piece, with the scales of each piece's own rows."""
    original = torch.randn(300, 128, generator=torch.Generator().manual_seed(3))
    packed = round_to_nearest(original * 1.01, form)
    whole = measured(packed, original, form)
    monkeypatch.setattr("optcc.quant.rounding._ELEMENTS_AT_ONCE", 128 * 128)
    assert measured(packed, original, form) == pytest.approx(whole, rel=1e-6)
    assert 1.0 < whole[0] < 20.0


def test_a_plain_weight_may_be_rounded_to_its_type_and_nothing_else() -> None:
    original = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    assert plain_error("w", original, original).worst == 0.0
    assert 0.0 < plain_error("w", original.to(torch.bfloat16), original).worst <= 1.5
    wrong = original.clone()
    wrong[-1] = wrong[-2]
    found = plain_error("w", wrong, original)
    assert found.worst > 100 and found.whole < found.worst
