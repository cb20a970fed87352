"""Round-to-nearest, selection by type, and what groups do to it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optcc.errors import BadOption, GroupSize
from optcc.ir.formats import decode_scale, find_format
from optcc.ir.interpret import interpret
from optcc.ir.ops.quantized import _spread, dequantize, quantize_activation, quantized_linear
from optcc.ir.parse import parse_module
from optcc.pm import Context, run_pipeline
from optcc.pm.instruments import Check
from optcc.pm.text import parse_pipeline
from optcc.quant.rounding import PackedWeight, round_to_nearest
from optcc.quant.select import select_weights
from optcc.recipe.schemes import WeightFormat, load_scheme

TIED = """\
optcc.ir 1
attrs {"form": "canonical", "kind": "decoder"}
graph model {
  %input_ids : i64[T] = input
  %position_ids : i64[T] = input
  %e : f32[T, 64] = aten.embedding.default(@emb, %input_ids)
  %p : f32[T, 64] = aten.embedding.default(@places, %position_ids)
  %s : f32[T, 64] = aten.add.Tensor(%e, %p)
  %l : f32[T, 64] = aten.linear.default(%s, @mid, @bias)
  %h : f32[T, 160] = aten.linear.default(%l, @emb)
  return logits = %h
}
weights {
  @bias : f32[64]
  @emb : f32[160, 64]
  @mid : f32[64, 64]
  @places : f32[160, 64]
}
"""


FORMS = [
    WeightFormat("int8", 64),
    WeightFormat("int8", 0, scale="float16"),
    WeightFormat("int8", 32, symmetric=False),
    WeightFormat("int4", 32),
    WeightFormat("int4", 16, symmetric=False, scale="float16"),
    WeightFormat("int4", 0, scale="bfloat16"),
    WeightFormat("int3", 32),
    WeightFormat("int3", 64, symmetric=False),
    WeightFormat("ternary", 64),
    WeightFormat("e4m3", 0),
    WeightFormat("e4m3", 0, rows=0),
    WeightFormat("e4m3", 64, rows=16),
    WeightFormat("e4m3", 32, scale="e8m0"),
    WeightFormat("e2m1", 16, scale="e4m3"),
    WeightFormat("e2m1", 32, scale="e8m0"),
]


def _name(form: WeightFormat) -> str:
    return f"{form.type}-{form.group}x{form.rows}-{form.scale}{'' if form.symmetric else '-asym'}"


def _back(packed: PackedWeight, form: WeightFormat) -> torch.Tensor:
    parts = packed.packed, packed.scale, packed.zero, packed.tensor_scale
    return dequantize(*parts, form.type, form.group, form.rows, torch.float32)


def _largest_gap(form: WeightFormat) -> float:
    """Half the widest distance of two neighbouring levels, in steps; with power-of-two scales, what is cut off too."""
    if form.scale == "e8m0":
        return {"e4m3": 64.0, "e2m1": 2.0}[form.type]
    return {"e4m3": 16.0, "e2m1": 1.0}.get(form.type, 0.5)


@pytest.mark.parametrize("form", FORMS, ids=_name)
@settings(deadline=None, max_examples=25)
@given(rows=st.integers(1, 40), groups=st.integers(1, 3), seed=st.integers(0, 2**31), power=st.floats(-1, 2))
def test_error_is_at_most_half_a_step(
    form: WeightFormat, rows: int, groups: int, seed: int, power: float
) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(rows, (form.group or 32) * groups) * 10**power
    packed = round_to_nearest(weight, form)
    back = _back(packed, form)
    assert packed.packed.dtype == find_format(form.type).storage
    assert (packed.zero is None) == form.symmetric
    if form.type == "ternary":  # most of a normal distribution is beyond its outermost levels
        assert set(torch.unique(find_format("ternary").unpack(packed.packed)).tolist()) <= {-1.0, 0.0, 1.0}
        return
    step = _spread(
        decode_scale(packed.scale, packed.tensor_scale), rows, form.rows, back.shape[-1], form.group
    )
    # A scale that is rounded to 8 or 16 bits can leave the largest value outside the range.
    slack = {"float32": 0.02, "float16": 0.3, "bfloat16": 0.6, "e4m3": 0.6, "e8m0": 0.0}[form.scale]
    assert ((back - weight).abs() <= (_largest_gap(form) + slack) * step + 1e-6 * weight.abs() + 1e-8).all()


@pytest.mark.parametrize("form", FORMS, ids=_name)
def test_packing_what_lies_on_the_grid_is_exact(form: WeightFormat) -> None:
    """Quantizing a second time with the first one's grid changes nothing."""
    torch.manual_seed(1)
    weight = torch.randn(48, 192)
    first = round_to_nearest(weight, form)
    number = find_format(form.type)
    assert torch.equal(
        number.pack(number.unpack(first.packed)).view(torch.uint8), first.packed.view(torch.uint8)
    )
    assert form.bytes(48, 192) == (
        first.packed.nbytes,
        sum(t.nbytes for t in (first.scale, first.zero, first.tensor_scale) if t is not None),
    )


@pytest.mark.parametrize("form", FORMS, ids=_name)
def test_search_never_has_more_error(form: WeightFormat) -> None:
    torch.manual_seed(2)
    weight = torch.randn(32, 192) * torch.randn(32, 192).abs()
    plain, searched = (_back(round_to_nearest(weight, form, search=n), form) for n in (0, 24))
    assert (searched - weight).square().sum() <= (plain - weight).square().sum()
    if form.type in ("int4", "int3", "ternary") and form.group != 16:
        assert (searched - weight).square().sum() < 0.95 * (plain - weight).square().sum()


def test_search_minds_what_is_important() -> None:
    torch.manual_seed(3)
    weight, importance = torch.randn(16, 64), torch.ones(64)
    importance[5] = 1000.0
    form = WeightFormat("int3", 64)
    plain, minded = (
        _back(round_to_nearest(weight, form, search=40, importance=i), form) for i in (None, importance)
    )
    assert (minded - weight)[:, 5].square().sum() < 0.5 * (plain - weight)[:, 5].square().sum()


@pytest.mark.parametrize("form", FORMS, ids=_name)
def test_zeros_stay_zeros(form: WeightFormat) -> None:
    assert not _back(round_to_nearest(torch.zeros(3, 64), form), form).any()


def test_large_weights_are_worked_on_in_pieces_with_the_same_result() -> None:
    weight = torch.randn(3000, 2048)
    form = WeightFormat("int8", 64)
    whole, part = round_to_nearest(weight, form), round_to_nearest(weight[2500:], form)
    assert torch.equal(whole.packed[2500:], part.packed) and torch.equal(whole.scale[2500:], part.scale)


def test_quantized_linear_is_what_the_explicit_form_computes() -> None:
    x, weight, bias = torch.randn(5, 64), torch.randn(32, 64), torch.randn(32)
    packed = round_to_nearest(weight, WeightFormat("int8", 32))
    values, scale = quantize_activation(x, "int8", 32, "float32", None)
    explicit = torch.nn.functional.linear(
        dequantize(values, scale, None, None, "int8", 32, 1, torch.float32),
        _back(packed, WeightFormat("int8", 32)),
        bias,
    )
    stored = packed.packed, packed.scale, None, None
    fused = quantized_linear(x, *stored, bias, "int8", 32, 1, "int8", 32, "float32")
    assert torch.equal(fused, explicit)
    assert (explicit - torch.nn.functional.linear(x, weight, bias)).abs().max() < 0.5


_ACTIVATIONS = [("e4m3", "float32", 0), ("e4m3", "e8m0", 32), ("int8", "float16", 16)]


@pytest.mark.parametrize(("format", "scale", "group"), _ACTIVATIONS)
def test_activations_of_other_formats(format: str, scale: str, group: int) -> None:
    torch.manual_seed(4)
    x = torch.randn(7, 64) * 3
    values, scales = quantize_activation(x, format, group, scale, None)
    back = dequantize(values, scales, None, None, format, group, 1, torch.float32)
    assert 0 < (back - x).abs().max() < 0.13 * x.abs().max()  # e8m0 cuts off at 448 of 512


def test_selection_knows_tied_heads_and_leaves_position_tables() -> None:
    module = parse_module(TIED)
    chosen = {s.name: s for s in select_weights(module, load_scheme("int8-g64-a8"))}
    assert set(chosen) == {"emb", "mid"}
    assert len(chosen["emb"].linears) == len(chosen["emb"].embeddings) == 1
    with pytest.raises(BadOption, match="matches no weight"):
        select_weights(module, load_scheme("int8-g64-a8"), ["lm_hed"])


def test_a_group_that_does_not_divide_lists_weights_and_groups_that_do() -> None:
    module = parse_module(TIED.replace("64,", "48,").replace(" 64]", " 48]").replace("[64]", "[48]"))
    with pytest.raises(GroupSize, match=r"emb \(48\)") as caught:
        select_weights(module, load_scheme("int8-g64-a8"))
    assert "groups of 16 divide" in str(caught.value)


def test_quantize_linear_stores_a_tied_weight_once() -> None:
    module = parse_module(TIED)
    torch.manual_seed(0)
    for name in list(module.weights):
        module.weights.put(name, torch.randn(module.weights.spec(name)[1]))
    ids = {"input_ids": torch.tensor([3, 1, 4, 1, 5]), "position_ids": torch.arange(5)}
    before = interpret(module, ids)["logits"]
    run_pipeline(
        module, parse_pipeline("quantize.linear{scheme=int8-g32-a8 skip=[mid]}"), Context(), [Check()]
    )
    assert [n for n in module.weights if "emb" in n] == ["emb.packed", "emb.scale"]
    assert "mid" in module.weights
    assert {s.name for s in select_weights(parse_module(TIED), load_scheme("int4-g32"))} == {"mid"}
    head = select_weights(parse_module(TIED), load_scheme("int4-g32"), part="vocabulary")
    assert {s.name for s in head} == {"emb"}
    after = interpret(module, ids)["logits"]
    assert 0 < (after - before).abs().max() < 0.02 * before.abs().max()
