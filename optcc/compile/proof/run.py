"""Run a module at any point of a pipeline on the inputs of the captured one.

After `serve.paged-kv` the graph has more inputs: pools, a block table, lengths. It gets a small pool of its own, and a
window of text goes through it in two steps, so that the second one reads pages that the first one wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from optcc.ir.interpret import Calls, Observer, interpret
from optcc.ir.module import Module

Batch = Mapping[str, Tensor]
Outputs = list[dict[str, Tensor]]


def run_all(module: Module, batches: Sequence[Batch]) -> Outputs:
    """Results by name, for every batch."""
    return [run(module, batch) for batch in batches]


def run(module: Module, batch: Batch) -> dict[str, Tensor]:
    """Results by name; a paged module computes them in two steps.

    Raises:
        PreconditionFailed: an input is missing.
    """
    if not is_paged(module):
        return interpret(module, batch)
    tokens = len(batch["input_ids"])
    cut = max(1, tokens * 5 // 8)
    pools = _pools(module, tokens)
    parts = [_step(module, batch, pools, *span) for span in ((0, cut), (cut, tokens)) if span[0] < span[1]]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def run_once(
    module: Module, batch: Batch, observe: Observer | None = None, calls: Calls | None = None
) -> dict[str, Tensor]:
    """Results by name in one step, watched; arguments as of `interpret`."""
    if not is_paged(module):
        return interpret(module, batch, observe=observe, calls=calls)
    tokens = len(batch["input_ids"])
    return _step(module, batch, _pools(module, tokens), 0, tokens, observe, calls)


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


def _pools(module: Module, tokens: int) -> dict[str, Tensor]:
    """Zeroed pools for one request, whose pages lie in them in reverse order, and its block table i32[1, M]."""
    found: dict[str, Tensor] = {}
    count = 1
    for node in module.inputs():
        if "_pool_" in node.name:
            rest = [int(n) for n in node.meta["val"].shape[1:]]
            count = -(-tokens // rest[0])
            found[node.name] = torch.zeros([count, *rest], dtype=node.meta["val"].dtype)
    found["block_table"] = torch.arange(count - 1, -1, -1, dtype=torch.int32)[None]
    return found
