"""Factors of inputs are moved to where they cost nothing, only where that is exact."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from optcc.ir.check import check_ir
from optcc.ir.interpret import interpret
from optcc.ir.module import Module
from optcc.quant.prescale import move_factor, scale_rows
from tests.golden import cases

_TEXT = """\
optcc.ir 1
attrs {{"form": "canonical", "kind": "function"}}
graph model {{
  %x : f32[T, 8] = input
  %query_starts : i32[R + 1] = input
{body}  %w : f32[T, 8] = aten.linear.default(%z, @w)
  %v : f32[T, 8] = aten.linear.default(%z, @v, @b)
  return w = %w, v = %v{more}
}}
weights {{
{weights}  @v : f32[8, 8]
  @w : f32[8, 8]
}}
"""
_GATED = """\
  %g : f32[T, 8] = aten.linear.default(%x, @g)
  %a : f32[T, 8] = aten.silu.default(%g)
  %u : f32[T, 8] = aten.linear.default(%x, @u, @c)
  %z : f32[T, 8] = aten.mul.Tensor({left}, {right})
"""
_ATTENTION = """\
  %q : f32[T, 8] = aten.linear.default(%x, @g)
  %u : f32[T, {width}] = aten.linear.default(%x, @u)
  %qs : f32[T, 4, 2] = aten.reshape.default(%q, [-1, 4, 2])
  %us : f32[T, {heads}, 2] = aten.reshape.default(%u, [-1, {heads}, 2])
  %attention : f32[T, 4, 2] = optcc.attention.default(%qs, {keys}, %us, %query_starts, 0.5)
  %z : f32[T, 8] = aten.reshape.default(%attention, [-1, 8])
"""
_RMS = "  %z : f32[T, 8] = optcc.rms_norm.default(%x, @n, 1e-06)\n"
_LAYER = "  %z : f32[T, 8] = aten.layer_norm.default(%x, [8], @n, @c)\n"
_ADD = "  %z : f32[T, 8] = aten.add.Tensor(%x, %x)\n"
_SQUARE = "  %u : f32[T, 8] = aten.linear.default(%x, @u)\n  %z : f32[T, 8] = aten.mul.Tensor(%u, %u)\n"

CASES = {
    "rms norm": (_RMS, ["n"], "norm", ""),
    "layer norm": (_LAYER, ["n", "c"], "norm", ""),
    "a norm whose weight others read": (
        _RMS + "  %o : f32[T, 8] = optcc.rms_norm.default(%x, @n, 1e-06)\n",
        ["n"],
        "norm",
        ", o = %o",
    ),
    "a norm that others read": (_RMS, ["n"], "multiply", ", z = %z"),
    "gated product": (_GATED.format(left="%a", right="%u"), ["g", "u", "c"], "linear", ""),
    "gated product, other order": (_GATED.format(left="%u", right="%a"), ["g", "u", "c"], "linear", ""),
    "up that others read": (_GATED.format(left="%a", right="%u"), ["g", "u", "c"], "multiply", ", u = %u"),
    "attention": (_ATTENTION.format(width=8, heads=4, keys="%qs"), ["g", "u"], "linear", ""),
    "attention with fewer value heads": (
        _ATTENTION.format(width=4, heads=2, keys="%us"),
        ["g", "u4"],
        "multiply",
        "",
    ),
    "values that are the keys too": (
        _ATTENTION.format(width=8, heads=4, keys="%us"),
        ["g", "u"],
        "multiply",
        "",
    ),
    "a sum": (_ADD, [], "multiply", ""),
    "a square": (_SQUARE, ["u"], "multiply", ""),
}
_SHAPES = {"n": "8", "c": "8", "g": "8, 8", "u": "8, 8"}


def _module(body: str, names: list[str], more: str) -> Module:
    shapes = (
        {"b": "8"} | {n: _SHAPES[n] for n in names if n != "u4"} | ({"u": "4, 8"} if "u4" in names else {})
    )
    weights = "".join(f"  @{n} : f32[{s}]\n" for n, s in sorted(shapes.items()))
    return cases.build(_TEXT.format(body=body, weights=weights, more=more))


def _multiplications(module: Module) -> int:
    return len(module.find(torch.ops.aten.mul.Tensor))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_moving_a_factor_and_dividing_weights_by_it_changes_nothing(case: str) -> None:
    body, names, to, more = CASES[case]
    module = _module(body, names, more)
    inputs, factor = cases.inputs(module), torch.rand(8) * 4 + 0.1
    before, multiplications = interpret(module, inputs), _multiplications(module)
    linears: list[fx.Node] = [n for n in module.find(torch.ops.aten.linear.default) if n.args[0].name == "z"]  # type: ignore[union-attr]
    moved = move_factor(module, linears, factor)
    assert moved.to == to
    assert _multiplications(module) - multiplications == (1 if to == "multiply" else 0)
    if moved.linear is not None:
        scale_rows(module, moved.linear, factor)
    for name in ("w", "v"):
        module.weights.put(name, module.weights[name] / factor)
    check_ir(module)
    after = interpret(module, inputs)
    for name, value in before.items():
        assert (after[name] - value).abs().max() <= 2e-6 * value.abs().max(), name


def test_rows_are_left_alone_when_they_must_be() -> None:
    module = _module(*CASES["gated product"][:2], "")
    linears = [n for n in module.find(torch.ops.aten.linear.default) if n.args[0].name == "z"]  # type: ignore[union-attr]
    assert move_factor(module, linears, torch.ones(8), rows=False).to == "multiply"


def test_some_of_the_readers_get_a_multiplication() -> None:
    module = _module(_RMS, ["n"], "")
    linears = [n for n in module.find(torch.ops.aten.linear.default) if n.args[0].name == "z"]  # type: ignore[union-attr]
    assert move_factor(module, linears[:1], torch.full((8,), 2.0)).to == "multiply"
    assert str(linears[0].args[0]).startswith("mul") and linears[1].args[0].name == "z"  # type: ignore[union-attr]
