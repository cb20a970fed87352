"""A module's text is deterministic and parses back to an equal module."""

from __future__ import annotations

import pytest
import torch

from optcc.errors import IRCheckFailed, IRTextError
from optcc.ir.check import check_ir
from optcc.ir.interpret import interpret
from optcc.ir.parse import parse_module
from optcc.ir.text import module_text

TEXT = """\
optcc.ir 1
attrs {"kind": "function"}
graph model {
  %x : f32[1, T, 64] = input
  %starts : i32[R + 1] = input
  %linear : f32[1, T, 96] = aten.linear.default(%x, @up.weight)  // model.py:3
  %chunks : (f32[1, T, 32], f32[1, T, 64]) = aten.split_with_sizes.default(%linear, [32, 64], -1)
  %first : f32[1, T, 32] = getitem(%chunks, 0)
  %size : dim[T] = aten.sym_size.int(%first, 1)
  %twice : dim[2*T] = mul(%size, 2)
  %flat : f32[2*T, 16] = aten.reshape.default(%first, [%twice, 16])
  %scaled : f32[2*T, 16] = aten.mul.Tensor(%flat, -0.5)
  %cast : bf16[2*T, 16] = aten._to_copy.default(%scaled, dtype=bf16)
  return y = %cast
}
weights {
  @up.weight : f32[96, 64]
}
"""


def test_text_round_trips() -> None:
    module = parse_module(TEXT)
    check_ir(module)
    assert module_text(module) == TEXT


def test_clone_prints_the_same() -> None:
    module = parse_module(TEXT)
    assert module_text(module.clone()) == TEXT


def test_parsed_module_runs() -> None:
    module = parse_module(TEXT)
    weight = torch.randn(96, 64)
    module.weights.put("up.weight", weight)
    x = torch.randn(1, 5, 64)
    result = interpret(module, {"x": x, "starts": torch.tensor([0, 5], dtype=torch.int32)})["y"]
    expected = ((x @ weight.T)[..., :32].reshape(10, 16) * -0.5).bfloat16()
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize(
    ("old", "new", "line", "why"),
    [
        ("f32[1, T, 96]", "f32[1, T, 97]", 6, "by its operands"),
        ("getitem(%chunks", "getitem(%chonks", 8, "not defined"),
        ("aten.mul.Tensor", "aten.moul.Tensor", 12, "no operator"),
        ("[%twice, 16]", "[%twice, 16", 11, "not closed"),
        ("optcc.ir 1", "optcc.ir 9", 1, "first line"),
        ("%x : f32[1, T, 64]", "%x : q7[1]", 4, "not a tensor type"),
    ],
)
def test_errors_name_the_line(old: str, new: str, line: int, why: str) -> None:
    with pytest.raises(IRTextError, match=why) as caught:
        parse_module(TEXT.replace(old, new, 1))
    assert caught.value.where in (f"line {line}", None)


def test_operands_that_do_not_fit_are_refused() -> None:
    with pytest.raises(IRCheckFailed, match="don't fit"):
        parse_module(TEXT.replace("@up.weight : f32[96, 64]", "@up.weight : f32[96, 63]"))


def test_check_finds_a_wrong_type() -> None:
    module = parse_module(TEXT)
    node = module.find(torch.ops.aten.mul.Tensor)[0]
    node.meta["val"] = module.dims.tensor(torch.float32, [1, 2])
    with pytest.raises(IRCheckFailed, match="recorded as f32"):
        check_ir(module)


def test_check_finds_a_dead_weight() -> None:
    module = parse_module(TEXT)
    module.weights.put("orphan", torch.zeros(3))
    with pytest.raises(IRCheckFailed, match="@orphan is read by no graph"):
        check_ir(module)
