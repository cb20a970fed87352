"""Run a module at any point of a pipeline on the inputs of the captured one.

After `serve.paged-kv` the graph has more inputs: pools, a block table, lengths. It gets a small pool of its own, and a
window of text goes through it in two steps, so that the second one reads pages that the first one wrote.

Rounding of activations and of the cache can be left out: a sum in another order moves a value by 1e-7, over the border
between two levels now and then, and from there on all later rounding falls otherwise. Whether a pass that only rounds
kept its promise is seen without that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from optcc.ir.interpret import Calls, Observer, interpret
from optcc.ir.module import Module
from optcc.ir.pattern import normalized
from optcc.quant.kv import halved

_OPS = torch.ops.optcc
Batch = Mapping[str, Tensor]
Outputs = list[dict[str, Tensor]]


def run_all(module: Module, batches: Sequence[Batch], rounding: bool = True) -> Outputs:
    """Results by name, for every batch; without `rounding`, activations and cached values stay as they are."""
    calls = None if rounding else unrounded(module)
    return [run(module, batch, calls) for batch in batches]


def run(module: Module, batch: Batch, calls: Calls | None = None) -> dict[str, Tensor]:
    """Results by name; a paged module computes them in two steps.

    Raises:
        PreconditionFailed: an input is missing.
    """
    if not is_paged(module):
        return interpret(module, batch, calls=calls)
    tokens = len(batch["input_ids"])
    cut = max(1, tokens * 5 // 8)
    pools = _pools(module, tokens, plain=calls is not None)
    spans = [(0, cut), (cut, tokens)] if cut < tokens else [(0, tokens)]
    parts = [_step(module, batch, pools, *span, calls=calls) for span in spans]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def run_once(
    module: Module, batch: Batch, observe: Observer | None = None, calls: Calls | None = None
) -> dict[str, Tensor]:
    """Results by name in one step, watched; arguments as of `interpret`."""
    if not is_paged(module):
        return interpret(module, batch, observe=observe, calls=calls)
    tokens = len(batch["input_ids"])
    return _step(module, batch, _pools(module, tokens, plain=bool(calls)), 0, tokens, observe, calls)


def rounds(module: Module) -> bool:
    """Whether values that depend on the input are rounded to levels on the way."""
    return bool(unrounded(module))


def unrounded(module: Module) -> Calls:
    """For the operators that round, calls that don't; ranges found by calibration are left alone."""
    made: dict[fx.Node, Callable[..., Any]] = {}
    for node in module.find(_OPS.quantize_activation.default):
        made[node] = lambda x, *rest: (x, torch.ones((*x.shape[:-1], 1)))
        for back in (user for part in node.users for user in part.users):
            if back.target is _OPS.dequantize.default:
                made[back] = lambda packed, *rest: packed
    for node in module.find(torch.ops.aten._to_copy.default):
        if halved(node) is not None:
            made[node.args[0]] = made[node] = lambda x, **kwargs: x  # type: ignore[index]
    for node in module.find(_OPS.quantized_linear.default):
        if normalized(node)[0][9]:
            made[node] = _plain_linear
    return made


def _plain_linear(*operands: Any) -> Tensor:
    found: Tensor = _OPS.quantized_linear(*operands[:9], "", 0, "")
    return found


def is_paged(module: Module) -> bool:
    """Whether the main graph reads a paged cache."""
    return any(node.name == "block_table" for node in module.inputs())


def paged_inputs(module: Module, batch: Batch) -> dict[str, Tensor]:
    """A batch of one window as the inputs of a paged module, with fresh pools."""
    tokens = len(batch["input_ids"])
    return _inputs(batch, _pools(module, tokens), 0, tokens)


def _step(
    module: Module,
    batch: Batch,
    pools: Mapping[str, Tensor],
    first: int,
    end: int,
    observe: Observer | None = None,
    calls: Calls | None = None,
) -> dict[str, Tensor]:
    """Tokens `first` to `end` of a window of one request."""
    return interpret(module, _inputs(batch, pools, first, end), observe=observe, calls=calls)


def _inputs(batch: Batch, pools: Mapping[str, Tensor], first: int, end: int) -> dict[str, Tensor]:
    rows = batch["logit_rows"]
    wanted = rows[(rows >= first) & (rows < end)] - first
    return {
        **pools,
        "input_ids": batch["input_ids"][first:end],
        "position_ids": batch["position_ids"][first:end],
        "query_starts": torch.tensor([0, end - first], dtype=torch.int32),
        "logit_rows": wanted,
        "kv_lengths": torch.tensor([end], dtype=torch.int32),
    }


def _pools(module: Module, tokens: int, plain: bool = False) -> dict[str, Tensor]:
    """Zeroed pools for one request, whose pages lie in them in reverse order, and its block table i32[1, M].

    `plain` makes them float32 whatever the module caches: its values aren't rounded then.
    """
    found: dict[str, Tensor] = {}
    count = 1
    for node in module.inputs():
        if "_pool_" in node.name:
            rest = [int(n) for n in node.meta["val"].shape[1:]]
            count = -(-tokens // rest[0])
            found[node.name] = torch.zeros(
                [count, *rest], dtype=torch.float32 if plain else node.meta["val"].dtype
            )
    found["block_table"] = torch.arange(count - 1, -1, -1, dtype=torch.int32)[None]
    return found
