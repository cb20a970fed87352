"""GPTQ: never worse than rounding to nearest for the linear's result, and the same where channels don't matter to each
other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from optcc.quant.gptq import factorize, gptq, hessian, output_error
from optcc.quant.grid import fit_grid, tensor_scale_of
from optcc.quant.rounding import round_to_nearest, unpacked
from optcc.recipe.schemes import WeightFormat

FORMS = [
    WeightFormat("int8", 64),
    WeightFormat("int4", 32),
    WeightFormat("int4", 0, scale="bfloat16"),
    WeightFormat("int4", 16, symmetric=False, scale="float16"),
    WeightFormat("int3", 64, symmetric=False),
    WeightFormat("ternary", 64),
    WeightFormat("e4m3", 0, rows=0),
    WeightFormat("e4m3", 64, rows=16),
    WeightFormat("e2m1", 16, scale="e4m3"),
    WeightFormat("e2m1", 32, scale="e8m0"),
]


def problem(seed: int, rows: int = 24, width: int = 192, tokens: int = 400) -> tuple[Tensor, Tensor]:
    """A weight [O, K] and inputs [tokens, K] whose channels go together and differ in size, as in a real model."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator) / width**0.5 + torch.eye(width)
    x = torch.randn(tokens, width, generator=generator) @ mix
    return torch.randn(rows, width, generator=generator), x * torch.rand(width, generator=generator).exp()


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("search", [0, 8])
def test_better_than_nearest(form: WeightFormat, act_order: bool, search: int) -> None:
    weight, x = problem(3)
    known = hessian([x], 192)
    packed = gptq(weight, factorize(known, form.group, act_order=act_order), form, search=search)
    nearest = round_to_nearest(weight, form, search=search)
    assert packed.packed.shape == nearest.packed.shape
    assert packed.scale.shape == nearest.scale.shape
    assert output_error(weight, packed, form, known) < 0.9 * output_error(weight, nearest, form, known)


@given(
    seed=st.integers(0, 10**6), form=st.sampled_from(FORMS), act_order=st.booleans(), rows=st.integers(1, 40)
)
def test_never_worse_than_nearest(seed: int, form: WeightFormat, act_order: bool, rows: int) -> None:
    weight, x = problem(seed, rows)
    known = hessian([x], 192)
    packed = gptq(weight, factorize(known, form.group, act_order=act_order), form)
    nearest = round_to_nearest(weight, form)
    assert output_error(weight, packed, form, known) <= output_error(weight, nearest, form, known)


@given(seed=st.integers(0, 10**6), form=st.sampled_from(FORMS), act_order=st.booleans())
def test_nearest_where_no_channel_knows_of_another(seed: int, form: WeightFormat, act_order: bool) -> None:
    weight = problem(seed)[0]
    diagonal = torch.rand(192, generator=torch.Generator().manual_seed(seed)) + 0.1
    packed = gptq(weight, factorize(diagonal.diag(), form.group, act_order=act_order), form)
    # A mean over other strides differs in the last bit, and with it a ternary scale.
    torch.testing.assert_close(unpacked(packed, form), unpacked(round_to_nearest(weight, form), form))


def test_the_hessian_is_that_of_all_batches_together() -> None:
    x = problem(1)[1]
    torch.testing.assert_close(hessian([x[:100].view(4, 25, -1), x[100:]], 192), x.T @ x / len(x))


def test_channels_without_input_are_rounded_to_nearest() -> None:
    weight, x = problem(5)
    x[:, 10:20] = 0
    form = WeightFormat("int4", 0)
    found = unpacked(gptq(weight, factorize(hessian([x], 192), 0), form), form)
    assert torch.equal(found[:, 10:20], unpacked(round_to_nearest(weight, form), form)[:, 10:20])


@pytest.mark.parametrize("tokens", [0, 1, 50])
def test_fewer_tokens_than_channels(tokens: int) -> None:
    """The matrix is singular: damping makes it one that can be factorized, without damping it grows until it can."""
    weight, x = problem(7)
    form = WeightFormat("int4", 64)
    for damp in (0.0, 0.01):
        factor = factorize(hessian([x[:tokens]], 192), 64, damp=damp)
        assert unpacked(gptq(weight, factor, form), form).isfinite().all()


def test_inputs_that_are_not_numbers_do_no_harm() -> None:
    weight, x = problem(9)
    x[3, 5] = float("inf")
    form = WeightFormat("int4", 64)
    found = unpacked(gptq(weight, factorize(hessian([x], 192), 64), form), form)
    assert torch.equal(found, unpacked(round_to_nearest(weight, form), form))


def test_the_same_twice() -> None:
    weight, x = problem(11)
    form = WeightFormat("int4", 64, symmetric=False)
    one, two = (gptq(weight, factorize(hessian([x], 192), 64), form, search=5) for _ in range(2))
    assert torch.equal(one.packed, two.packed)
    assert torch.equal(one.scale, two.scale)


@given(seed=st.integers(0, 10**6), form=st.sampled_from(FORMS), search=st.integers(1, 12))
def test_the_search_finds_no_worse_grid_with_scales_of_either_sign(
    seed: int, form: WeightFormat, search: int
) -> None:
    groups = problem(seed)[0].view(24, 3, 64)
    whole = tensor_scale_of(float(groups.abs().max()), form)
    errors = []
    for signed in (False, True):
        grid = fit_grid(groups, form, tensor_scale=whole, search=search, signed=signed)
        errors.append((grid.nearest(groups) - groups).square().sum(-1))
    assert bool((errors[1] <= errors[0]).all())


def test_a_negative_scale_makes_the_largest_value_the_lowest_level() -> None:
    form = WeightFormat("int4", 16)
    weight = torch.arange(-7, 9, dtype=torch.float32)[None]
    packed = gptq(weight, factorize(torch.eye(16), 16), form, search=1, signed=True)
    assert packed.scale.tolist() == [[-1.0]]
    assert torch.equal(unpacked(packed, form), weight)
