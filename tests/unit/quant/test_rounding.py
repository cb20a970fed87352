"""Round-to-nearest, selection by type, and what groups do to it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optcc.errors import BadOption, GroupSize
from optcc.ir.interpret import interpret
from optcc.ir.ops.quantized import dequantize, quantize_activation, quantized_linear
from optcc.ir.parse import parse_module
from optcc.pm import Context, run_pipeline
from optcc.pm.instruments import Check
from optcc.pm.text import parse_pipeline
from optcc.quant.rounding import round_to_nearest
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


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 40),
    st.sampled_from([(64, 16), (64, 64), (96, 32), (48, 0)]),
    st.sampled_from(["float32", "float16"]),
    st.integers(0, 2**31),
    st.floats(-1, 2),
)
def test_error_is_at_most_half_a_step(
    rows: int, shape: tuple[int, int], scale_dtype: str, seed: int, power: float
) -> None:
    width, group = shape
    torch.manual_seed(seed)
    weight = torch.randn(rows, width) * 10**power
    packed = round_to_nearest(weight, WeightFormat(8, group, True, scale_dtype))
    back = dequantize(packed.packed, packed.scale, None, 8, group, torch.float32)
    step = packed.scale.float().repeat_interleave(group or width, -1)
    half = (
        0.5 if scale_dtype == "float32" else 0.75
    )  # a rounded scale can leave the largest value outside the range
    assert ((back - weight).abs() <= half * step + 1e-6 * weight.abs() + 2e-8).all()


def test_zero_rows_stay_zero() -> None:
    packed = round_to_nearest(torch.zeros(3, 64), WeightFormat(8, 32, True, "float32"))
    assert not dequantize(packed.packed, packed.scale, None, 8, 32, torch.float32).any()


def test_large_weights_are_worked_on_in_pieces_with_the_same_result() -> None:
    weight = torch.randn(3000, 2048)
    form = WeightFormat(8, 64, True, "float32")
    whole, part = round_to_nearest(weight, form), round_to_nearest(weight[2500:], form)
    assert torch.equal(whole.packed[2500:], part.packed) and torch.equal(whole.scale[2500:], part.scale)


def test_quantized_linear_is_what_the_explicit_form_computes() -> None:
    x, weight, bias = torch.randn(5, 64), torch.randn(32, 64), torch.randn(32)
    packed = round_to_nearest(weight, WeightFormat(8, 32, True, "float32"))
    values, scale = quantize_activation(x, 8, 32)
    explicit = torch.nn.functional.linear(
        dequantize(values, scale, None, 8, 32, torch.float32),
        dequantize(packed.packed, packed.scale, None, 8, 32, torch.float32),
        bias,
    )
    assert torch.equal(quantized_linear(x, packed.packed, packed.scale, None, bias, 8, 32, 8, 32), explicit)
    assert (explicit - torch.nn.functional.linear(x, weight, bias)).abs().max() < 0.5


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
    after = interpret(module, ids)["logits"]
    assert 0 < (after - before).abs().max() < 0.02 * before.abs().max()
