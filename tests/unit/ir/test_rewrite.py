"""Rewrite rules: operand order, repeated names, defaults, several results, and why a rule did not apply."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx

from optcc.ir.builder import Builder
from optcc.ir.check import check_ir
from optcc.ir.module import Module
from optcc.ir.parse import parse_module
from optcc.ir.pattern import Const, Match, Var, Weight, op
from optcc.ir.rewrite import Rule, apply_rules

HEAD = "optcc.ir 1\ngraph model {\n  %x : f32[T, 8] = input\n  %r : f32[T, 8] = input\n"
TAIL = "\n}\nweights {\n  @w : f32[8]\n}\n"
_X, _R, _W = Var("x"), Var("r"), Weight("w")


def module_of(*lines: str) -> Module:
    return parse_module(HEAD + "\n".join("  " + line for line in lines) + TAIL)


def scale(match: Match, build: Builder) -> fx.Node:
    return build.call(torch.ops.aten.mul.Tensor, match["x"], match["k"] * 2)


def test_addition_matches_in_both_orders_and_names_bind_once() -> None:
    rule = Rule(
        "double", op("aten.add.Tensor", _X, op("aten.mul.Tensor", _X, Const("k"))), lambda m, b: scale(m, b)
    )
    module = module_of(
        "%a : f32[T, 8] = aten.mul.Tensor(%x, 3.0)",
        "%b : f32[T, 8] = aten.add.Tensor(%a, %x)",
        "%c : f32[T, 8] = aten.add.Tensor(%a, %r)",
        "%d : f32[T, 8] = aten.mul.Tensor(%b, %c)",
        "%e : f32[T, 8] = aten.mul.Tensor(%d, @w)",
        "return y = %e",
    )
    log = apply_rules(module, (rule,))
    assert log.hits == {"double": 1}
    assert [(m.node, "two different" in m.reason) for m in log.misses] == [("c", True)]
    check_ir(module)


def test_operands_beyond_the_pattern_must_be_defaults() -> None:
    rule = Rule(
        "plain-add",
        op("aten.add.Tensor", _X, _R),
        lambda m, b: b.call(torch.ops.aten.sub.Tensor, m["x"], m["r"]),
    )
    module = module_of(
        "%a : f32[T, 8] = aten.add.Tensor(%x, %r, alpha=2)",
        "%b : f32[T, 8] = aten.mul.Tensor(%a, @w)",
        "return y = %b",
    )
    log = apply_rules(module, (rule,))
    assert log.hits == {"plain-add": 0}
    assert "sets alpha" in log.misses[0].reason


def test_a_rule_may_replace_several_nodes() -> None:
    def both(match: Match, build: Builder) -> Mapping[str, fx.Node]:
        pair = build.call(
            torch.ops.optcc.add_rms_norm.default, match["x"], match["r"], match["w"], match["eps"]
        )
        return {"root": build.item(pair, 0), "sum": build.item(pair, 1)}

    pattern = op("optcc.rms_norm.default", op("aten.add.Tensor", _X, _R, name="sum"), _W, Const("eps"))
    module = module_of(
        "%s : f32[T, 8] = aten.add.Tensor(%x, %r)",
        "%n : f32[T, 8] = optcc.rms_norm.default(%s, @w, 1e-06)",
        "%o : f32[T, 8] = aten.add.Tensor(%n, %s)",
        "return y = %o",
    )
    assert apply_rules(module, (Rule("fuse", pattern, both),)).hits == {"fuse": 1}
    check_ir(module)
    assert (
        next(str(n.target) for n in module.nodes() if n.op == "call_function") == "optcc.add_rms_norm.default"
    )
    assert module.count() == 4


def test_a_failed_check_is_reported_with_its_reason() -> None:
    rule = Rule(
        "never", op("aten.mul.Tensor", _X, _W), lambda m, b: m.node("x"), lambda m: "not on a Saturday"
    )
    module = module_of(
        "%a : f32[T, 8] = aten.mul.Tensor(%r, @w)  // model.py:7",
        "return y = %a",
    )
    miss = apply_rules(module, (rule,)).misses[0]
    assert (miss.reason, miss.source, miss.node) == ("not on a Saturday", "model.py:7", "a")


def test_weights_nobody_reads_any_more_go_away() -> None:
    rule = Rule("drop", op("aten.mul.Tensor", _X, _W), lambda m, b: m.node("x"))
    module = module_of(
        "%a : f32[T, 8] = aten.mul.Tensor(%x, @w)",
        "%b : f32[T, 8] = aten.add.Tensor(%a, %r)",
        "return y = %b",
    )
    apply_rules(module, (rule,))
    assert list(module.weights) == []
    check_ir(module)
