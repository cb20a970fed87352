"""A searched pass in a whole compile: the ledger settles on what was chosen, and the report shows the frontier."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from optcc.compile import CompileOptions, compile_model
from optcc.compile.ledger import Intent, balance, intents, settle
from optcc.errors import LedgerMismatch
from optcc.ir.module import Module
from optcc.ir.parse import parse_module
from optcc.passes.quantize.search import SearchSchemes
from optcc.recipe import load_recipe
from tests import zoo

OVERRIDES = [
    "target.threads=1",
    "calibrate.tokens=96",
    "calibrate.window=32",
    "check.tokens=64",
    "check.window=32",
    "check.limits.kl=1",
    "check.limits.top1=0.1",
    "check.limits.nll=1",
    "quantize.search.points=1",
]
TEXT = """\
optcc.ir 1
attrs {"form": "canonical", "kind": "decoder"}
graph model {
  %x : f32[T, 64] = input
  %a : f32[T, 64] = aten.linear.default(%x, @a)
  %b : f32[T, 32] = aten.linear.default(%a, @b)
  return logits = %b
}
weights {
  @a : f32[64, 64]
  @b : f32[32, 64]
}
"""


def test_a_mixed_compile_on_onnxruntime(tmp_path: Path) -> None:
    zoo.save("llama", tmp_path / "llama")
    recipe = load_recipe("cpu-mixed", [*OVERRIDES, "quantize.search.kl=0.01"])
    options = CompileOptions(cache=tmp_path / "cache", speed=False)
    report = compile_model(str(tmp_path / "llama"), recipe, tmp_path / "out", options).report
    (row,) = [r for r in report.passes if r.step.startswith("quantize.search")]
    (chosen,) = [point for point in row.tables["frontier"] if point["chosen"]]
    assert 0 < chosen["int4-g64-a8"] < 1, "both schemes are used"  # type: ignore[operator]
    # 3 layers of q, k, v, o, gate, up, down, and the untied head and embedding
    assert report.ledger.quantized == 3 * 7 + 2
    assert (
        report.ledger.quantized_bytes
        < 1e6 * float(str(chosen["megabytes"]))
        < report.ledger.stored_bytes * 1.01
    )
    assert all(f.found >= f.expected for f in report.fusions), "siblings have equal schemes, so they fuse"
    assert report.check is not None
    assert report.check["gate"]["status"] == "ok"
    again = compile_model(str(tmp_path / "llama"), recipe, tmp_path / "again", options).report
    assert again.ledger == report.ledger and all(r.cached for r in again.passes)


def _searched() -> tuple[Module, list[Intent]]:
    module = parse_module(TEXT)
    return module, intents([SearchSchemes(kl=0.1)], module, Path())


def test_intents_of_a_searched_weight_hold_what_may_become_of_it_until_it_is_settled() -> None:
    module, promised = _searched()
    assert [(i.name, i.scheme, i.values) for i in promised] == [("a", "", 0), ("b", "", 0)]
    assert promised[0].choices == {"int4-g64-a8": (2048, 256), "int8-g64-a8": (4096, 256)}
    assert [i.most_bytes for i in promised] == [4352, 2176]
    assert settle(promised, module) == promised
    module.attrs["schemes"] = {"a": "int4-g64-a8", "b": "int8-g64-a8"}
    settled = settle(promised, module)
    assert settled == [Intent("a", "int4-g64-a8", 2048, 256), Intent("b", "int8-g64-a8", 2048, 128)]
    del module.attrs["schemes"]
    assert settle(settled, module) == settled, "what is settled stays, whatever later passes rename"


def test_a_weight_that_no_pass_decided_on_or_in_a_scheme_not_offered_fails() -> None:
    module, promised = _searched()
    with pytest.raises(LedgerMismatch, match="2 weights"):
        balance(20480, promised, module, {}, Path("weights"))
    module.attrs["schemes"] = {"a": "ternary-g64"}
    with pytest.raises(LedgerMismatch, match="a is stored as ternary-g64"):
        settle(promised, module)
    wrong = [replace(i, scheme="int8-g64-a8", values=1, scales=1) for i in promised]
    with pytest.raises(LedgerMismatch, match="the graph holds 0"):
        balance(20480, wrong, module, {}, Path("weights"))
