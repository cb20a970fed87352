"""A sweep sees what `interpret` sees, whatever is spilled, and sees what is changed on the way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx

from optcc.errors import PreconditionFailed
from optcc.ir.interpret import interpret
from optcc.ir.module import Module
from optcc.ir.parse import parse_module
from optcc.pm import Context, parse_pipeline, run_pipeline
from optcc.quant.sweep import Sweep
from tests import zoo
from tests.unit.passes.conftest import Capture
from tests.unit.passes.pipelines import CANONICALIZE

CHAIN = """\
optcc.ir 1
attrs {"form": "canonical", "kind": "function"}
graph model {
  %x : f32[T, 16] = input
  %unused : f32[T] = input
  %a : f32[T, 16] = aten.linear.default(%x, @first)
  %b : f32[T, 16] = aten.relu.default(%a)
  %t : f32[16, 16] = aten.t.default(@second)
  %c : f32[T, 16] = aten.matmul.default(%b, %t)
  %d : f32[T, 16] = aten.linear.default(%c, @third)
  %e : f32[T, 16] = aten.add.Tensor(%d, %a)
  %late : f32[T] = aten.mul.Tensor(%unused, 2.0)
  return y = %e, late = %late
}
weights {
  @first : f32[16, 16]
  @second : f32[16, 16]
  @third : f32[16, 16]
}
"""


def _chain() -> Module:
    module = parse_module(CHAIN)
    generator = torch.Generator().manual_seed(0)
    for name in ("first", "second", "third"):
        module.weights.put(name, torch.randn(16, 16, generator=generator))
    return module


def _batches(count: int = 3) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [{"x": torch.randn(4 + i, 16, generator=generator)} for i in range(count)]


def _linears(module: Module) -> list[fx.Node]:
    return module.find(torch.ops.aten.linear.default)


@pytest.mark.parametrize("name", ["llama", "gemma3", "qwen3", "gpt2"])
@pytest.mark.parametrize("budget", [1 << 30, 0])
def test_every_linear_reads_what_interpret_gives_it(captured: Capture, name: str, budget: int) -> None:
    module = captured(name).module.clone()
    run_pipeline(module, parse_pipeline(CANONICALIZE), Context())
    batches = []
    for seed, length in enumerate((zoo.TEXT, 5)):
        ids = zoo.text(length, seed)
        batches.append(
            {
                "input_ids": ids,
                "position_ids": torch.arange(length),
                "query_starts": torch.tensor([0, length], dtype=torch.int32),
                "logit_rows": torch.arange(length),
            }
        )
    seen: list[dict[fx.Node, Tensor]] = [{} for _ in batches]
    for batch, values in zip(batches, seen, strict=True):
        interpret(module, batch, observe=lambda node, value, values=values: values.update({node: value}))  # type: ignore[misc]
    sweep = Sweep(module, batches, _linears(module), budget=budget)
    for linear in _linears(module):
        sweep.run_to(linear)
        assert isinstance(linear.args[0], fx.Node)
        found = list(sweep.inputs(linear.args[0]))
        assert all(torch.equal(f, v[linear.args[0]]) for f, v in zip(found, seen, strict=True))
    if not budget:
        assert sweep.held_bytes == 0
        assert sweep.spilled_bytes > 0
    assert len(_linears(module)) > 10


def test_what_the_targets_do_not_need_never_runs() -> None:
    module = _chain()
    last = _linears(module)[-1]
    sweep = Sweep(module, _batches(), [last])
    sweep.run_to(last)  # `unused` isn't among the inputs, and nobody asks for it
    assert isinstance(last.args[0], fx.Node)
    assert [v.shape[0] for v in sweep.inputs(last.args[0])] == [4, 5, 6]


def test_a_missing_input_is_named() -> None:
    module = _chain()
    with pytest.raises(PreconditionFailed, match="input x"):
        Sweep(module, [*_batches(), {}], _linears(module))


def test_a_weight_replaced_at_a_stop_is_what_runs() -> None:
    module, batches = _chain(), _batches()
    first, last = _linears(module)
    sweep = Sweep(module, batches, [first, last])
    sweep.run_to(first)
    weight = module.weights["first"] * 2
    module.weights.put("first", weight)
    sweep.run_to(last)
    assert isinstance(last.args[0], fx.Node)
    for value, batch in zip(sweep.inputs(last.args[0]), batches, strict=True):
        torch.testing.assert_close(value, (batch["x"] @ weight.T).relu() @ module.weights["second"].T)


def test_memory_is_that_of_the_values_still_needed() -> None:
    module = _chain()
    batches = [{"x": torch.randn(100, 16)} for _ in range(10)]
    one = 10 * 100 * 16 * 4
    first, last = _linears(module)
    sweep = Sweep(module, batches, [first, last])
    sweep.run_to(first)
    assert sweep.held_bytes == one
    sweep.run_to(last)  # %a isn't needed by any target once %b is there
    assert sweep.held_bytes == one


def test_a_budget_spills_what_is_beyond_and_the_files_go_away() -> None:
    module, batches = _chain(), [{"x": torch.randn(100, 16)} for _ in range(10)]
    first, last = _linears(module)
    sweep = Sweep(module, batches, [first, last], budget=5 * 100 * 16 * 4)
    sweep.run_to(last)
    assert sweep.held_bytes <= 5 * 100 * 16 * 4
    assert sweep.spilled_bytes > 0
    assert not list(module.weights.directory.glob(".sweep-*"))
