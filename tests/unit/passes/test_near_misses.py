"""A fusion that doesn't apply says why, and where."""

from __future__ import annotations

import pytest

from optcc.ir.parse import parse_module
from optcc.ir.rewrite import NearMiss
from optcc.ir.text import module_text
from optcc.pm import Context, parse_pipeline
from optcc.pm.instruments import Check
from optcc.pm.run import run_pass

_GATED = """\
optcc.ir 1
attrs {"kind": "function"}
graph model {
  %x : f32[T, 8] = input
  %gate : f32[T, 6] = aten.linear.default(%x, @gate.weight)  // mlp.py:1
  %act : f32[T, 6] = aten.silu.default(%gate)  // mlp.py:2
  %up : f32[T, 6] = aten.linear.default(%x, @up.weight)  // mlp.py:3
  %mul : f32[T, 6] = aten.mul.Tensor(%act, %up)  // mlp.py:4
  %out : f32[T, 6] = aten.add.Tensor(%mul, 1.0)
  return y = %out
}
weights {
  @gate.weight : f32[6, 8]
  @up.weight : f32[6, 8]
}
"""
_QKV = """\
optcc.ir 1
attrs {"kind": "function"}
graph model {
  %x : f32[T, 8] = input
  %query_starts : i32[R + 1] = input
  %q : f32[T, 8] = aten.linear.default(%x, @q.weight)
  %k : f32[T, 8] = aten.linear.default(%x, @k.weight)
  %v : f32[T, 8] = aten.linear.default(%x, @v.weight)
  %q3 : f32[T, 2, 4] = aten.reshape.default(%q, [-1, 2, 4])
  %k3 : f32[T, 2, 4] = aten.reshape.default(%k, [-1, 2, 4])
  %v3 : f32[T, 2, 4] = aten.reshape.default(%v, [-1, 2, 4])
  %att : f32[T, 2, 4] = optcc.attention.default(%q3, %k3, %v3, %query_starts, 0.5)  // att.py:9
  return y = %att
}
weights {
  @k.weight : f32[8, 8]
  @q.weight : f32[8, 8]
  @v.weight : f32[8, 8]
}
"""
_NORM = """\
optcc.ir 1
attrs {"kind": "function"}
graph model {
  %x : f32[T, 8] = input
  %total : f32[T, 8] = aten.add.Tensor(%x, 0.5)
  %norm : f32[T, 8] = optcc.rms_norm.default(%total, @w, 1e-06)  // norm.py:1
  return y = %norm
}
weights {
  @w : f32[8]
}
"""
_WRITTEN = """\
optcc.ir 1
attrs {"kind": "function"}
graph model {
  %x : f32[T, 2, 8] = input
  %square : f32[T, 2, 8] = aten.pow.Tensor_Scalar(%x, 2)
  %mean : f32[T, 1, 8] = aten.mean.dim(%square, [1], True)
  %eps : f32[T, 1, 8] = aten.add.Tensor(%mean, 1e-06)
  %inverse : f32[T, 1, 8] = aten.rsqrt.default(%eps)
  %core : f32[T, 2, 8] = aten.mul.Tensor(%x, %inverse)
  %y : f32[T, 2, 8] = aten.mul.Tensor(%core, @w)
  return y = %y
}
weights {
  @w : f32[8]
}
"""
_DEQUANT = """\
optcc.ir 1
attrs {"kind": "function"}
graph model {
  %x : f32[T, 8] = input
  %b : f32[5] = input
  %w : f32[5, 8] = optcc.dequantize.default(@w.packed, @w.scale, None, None, "int8", 0, 1, f32)
  %y : f32[T, 5] = aten.linear.default(%x, %w, %b)
  return y = %y
}
weights {
  @w.packed : i8[5, 8]
  @w.scale : f32[5, 1]
}
"""


def _misses(text: str, step: str) -> list[NearMiss]:
    module, ctx = parse_module(text), Context()
    before = module_text(module)
    assert not run_pass(module, parse_pipeline(step).passes[0], ctx, [Check()])
    assert module_text(module) == before
    assert not any(ctx.rewrites.hits.values())
    return ctx.rewrites.misses


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("(%mul, 1.0)", "(%mul, %gate)", "the gate %gate is used 2 times"),
        ("(%mul, 1.0)", "(%mul, %act)", "the act %act is used 2 times"),
        ("(%x, @up.weight)", "(%x, @gate.weight)", "@gate.weight is shared with 1 other reader"),
    ],
)
def test_gated_mlp(old: str, new: str, why: str) -> None:
    text = _GATED.replace(old, new)
    if "@up.weight)" not in text:
        text = text.replace("  @up.weight : f32[6, 8]\n", "")
    misses = _misses(text, "fuse.gated-mlp")
    assert [(m.rule, m.node, m.source) for m in misses] == [("gated-silu", "mul", "mlp.py:4")]
    assert why in misses[0].reason


def test_another_activation_is_no_near_miss() -> None:
    assert not _misses(
        _GATED.replace("aten.silu.default(%gate)", "aten.tanh.default(%gate)"), "fuse.gated-mlp"
    )


def test_gated_mlp_on_different_inputs() -> None:
    text = _GATED.replace(
        "%up : f32[T, 6] = aten.linear.default(%x,", "%up : f32[T, 6] = aten.linear.default(%z,"
    )
    text = text.replace("  %gate :", "  %z : f32[T, 8] = input\n  %gate :", 1)
    assert "%gate and %up read different inputs" in _misses(text, "fuse.gated-mlp")[0].reason


_READ_AGAIN = _QKV.replace(
    "return y = %att", "%z : f32[T, 8] = aten.linear.default(%x, @k.weight)\n  return y = %att, z = %z"
)
_COMPUTED = (
    _QKV.replace("(%x, @v.weight)", "(%x, %given)")
    .replace("  @v.weight : f32[8, 8]\n", "")
    .replace("  %q :", "  %given : f32[8, 8] = input\n  %q :", 1)
)


@pytest.mark.parametrize(
    ("text", "step", "why"),
    [
        (_READ_AGAIN, "fuse.qkv", "@k.weight is shared with 1 other reader"),
        (_COMPUTED, "fuse.qkv", "the weight of %v is not a stored weight"),
        (_NORM, "fuse.add-rms-norm", "0.5 is added, which is no tensor"),
        (_NORM.replace("(%x, 0.5)", "(%x, @w)"), "fuse.add-rms-norm", "is broadcast or converted"),
        (_WRITTEN, "canonicalize.norm", "the mean is over dims [1], not over the last one"),
        (_DEQUANT, "fuse.dequant-linear", "the bias is computed"),
    ],
)
def test_reasons(text: str, step: str, why: str) -> None:
    assert why in " | ".join(m.reason for m in _misses(text, step))
