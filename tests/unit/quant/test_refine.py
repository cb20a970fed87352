"""Refinement: never more error in any row, and the best there is where that can be computed."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from optcc.quant.gptq import factorize, gptq, hessian
from optcc.quant.refine import refine
from optcc.quant.rounding import PackedWeight, round_to_nearest, unpacked
from optcc.recipe.schemes import WeightFormat
from tests.unit.quant.test_gptq import FORMS, problem


def _errors(weight: Tensor, packed: PackedWeight, form: WeightFormat, known: Tensor) -> Tensor:
    error = weight - unpacked(packed, form)
    return ((error @ known) * error).sum(1)


@given(
    seed=st.integers(0, 10**6), form=st.sampled_from(FORMS), rows=st.integers(1, 40), rounds=st.integers(1, 3)
)
def test_no_row_gets_worse(seed: int, form: WeightFormat, rows: int, rounds: int) -> None:
    weight, x = problem(seed, rows)
    factor = factorize(hessian([x], 192), form.group)
    before = gptq(weight, factor, form)
    after = refine(weight, before, form, factor.hessian, rounds)
    assert after.scale.dtype == before.scale.dtype
    assert after.packed.shape == before.packed.shape
    old, new = (_errors(weight, p, form, factor.hessian) for p in (before, after))
    assert bool((new <= old * (1 + 1e-4)).all())


@given(seed=st.integers(0, 10**6), form=st.sampled_from([f for f in FORMS if f.type.startswith("int")]))
def test_rounding_to_nearest_gets_much_better(seed: int, form: WeightFormat) -> None:
    weight, x = problem(seed)
    factor = factorize(hessian([x], 192), form.group)
    before = round_to_nearest(weight, form)
    after = refine(weight, before, form, factor.hessian, 3)
    old, new = (_errors(weight, p, form, factor.hessian).sum() for p in (before, after))
    assert new < 0.8 * old


def test_the_best_levels_of_one_channel_and_the_best_scale_of_its_group() -> None:
    """With one channel and one row everything can be written down: any scale is exact."""
    form = WeightFormat("int8", 16)
    weight = torch.zeros(1, 16)
    weight[0, 3] = 0.7
    packed = PackedWeight(torch.zeros(1, 16, dtype=torch.int8), torch.tensor([[0.5]]))
    found = unpacked(refine(weight, packed, form, torch.eye(16), 2), form)
    torch.testing.assert_close(found, weight, rtol=1e-5, atol=1e-6)


def test_no_rounds_change_nothing() -> None:
    weight, x = problem(2)
    form = WeightFormat("int4", 64)
    factor = factorize(hessian([x], 192), 64)
    packed = gptq(weight, factor, form)
    assert refine(weight, packed, form, factor.hessian, 0) is packed
