"""The artifact's backend against the final program, operator by operator, on the reference's own inputs.

Errors of one operator don't reach the next, so the first one that is off is the one that is wrong. The weights are
those of the artifact's file, so a tensor stored wrongly shows as well. What a backend fuses beyond single operators,
and its graph as a whole, is what the check of the artifact compares end to end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from optcc.backends.protocol import Backend
from optcc.compile.proof.cut import SUFFIX, cut
from optcc.compile.proof.data import ProofData
from optcc.compile.proof.run import is_paged, paged_inputs
from optcc.errors import LoweringDiffers
from optcc.ir.interpret import interpret
from optcc.ir.module import Module, source_of
from optcc.ir.text import target_name

_TOKENS = 48
BOUNDS: Mapping[str, float] = {
    "optcc.quantized_linear.default": 2e-2,
    "optcc.quantize_activation.default": 1.01,
    "optcc.quantize_static.default": 1.01,
    "optcc.paged_attention.default": 1e-3,
    "aten.gelu.default": 1e-3,
    "optcc.gated_activation.default": 1e-3,
}
"""By operator. Where activations are rounded, a value between two levels may go either way: its error is one level, and
integers may differ by one."""
DEFAULT_BOUND = 2e-4


def prove_lowered(
    backend: Backend, module: Module, root: Path, data: ProofData, threads: int
) -> dict[str, Any]:
    """Run every operator of the lowered program on what it reads in the interpreter.

    Args:
        backend: whose lowering it is.
        module: final.
        root: the artifact's files.
        data: one batch of it is used.
        threads: 0 means one per physical core.

    Returns:
        Plain data: how many operators, the worst error of each kind with its bound, seconds.

    Raises:
        LoweringDiffers: the first operator that is off, with its source line.
    """
    began = time.perf_counter()
    inputs = _inputs(module, data)
    kept: dict[str, Tensor] = {}

    def watch(node: fx.Node, value: Any) -> None:
        if node.op == "call_function" and isinstance(value, Tensor):
            kept[node.name] = value.clone()

    fresh = {name: value.clone() for name, value in inputs.items()}  # pools are written to
    interpret(module, fresh, observe=watch)
    separate, names = cut(module, backend.evaluates())
    given = {node.name: node.name.removesuffix(SUFFIX) for node in separate.inputs()}
    arrays = {
        name: np.ascontiguousarray((inputs[source] if name in inputs else kept[source]).numpy())
        for name, source in given.items()
    }
    found = backend.evaluate(separate, root, arrays, threads)
    nodes = {node.name: node for node in module.graph.nodes}
    worst: dict[str, dict[str, Any]] = {}
    for name in names:
        node = nodes[name]
        kind = _kind(node)
        bound = BOUNDS.get(kind, DEFAULT_BOUND)
        error = _error(kept[name], torch.from_numpy(np.array(found[name])))
        if not error <= bound:
            raise LoweringDiffers(
                f"%{name} ({kind}) on {backend.name} differs from the reference by {error:.3g} of its deviation, "
                f"on the same inputs; the bound is {bound:g}",
                where=source_of(node) or f"%{name}",
                hint="compile with --set target.backend=reference, or with OPTCC_NATIVE=off, and report it",
            )
        row = worst.setdefault(
            kind, {"operator": kind, "count": 0, "worst": 0.0, "node": name, "bound": bound}
        )
        row["count"] += 1
        if error > row["worst"]:
            row["worst"], row["node"] = error, name
    return {
        "backend": backend.name,
        "operators": len(names),
        "kinds": sorted(worst.values(), key=lambda row: row["worst"] / row["bound"], reverse=True),
        "seconds": round(time.perf_counter() - began, 3),
    }


def _inputs(module: Module, data: ProofData) -> dict[str, Tensor]:
    batch = data.batches[0]
    if not is_paged(module):
        return dict(batch)
    count = min(_TOKENS, len(batch["input_ids"]))
    short = {name: value[:count] for name, value in batch.items() if name != "query_starts"}
    return paged_inputs(module, {**short, "logit_rows": batch["logit_rows"][:count]})


def _kind(node: fx.Node) -> str:
    """The operator; of a part of a tuple, the one that makes the tuple."""
    if target_name(node) == "getitem":
        whole = node.args[0]
        assert isinstance(whole, fx.Node)
        return _kind(whole)
    return target_name(node)


def _error(right: Tensor, found: Tensor) -> float:
    """Largest difference over the standard deviation; of integers, the largest difference itself."""
    if right.numel() != found.numel():
        return math.inf
    a, b = right.reshape(-1).double(), found.reshape(-1).double()
    if not a.numel() or torch.equal(a, b):
        return 0.0
    same = (a == b) | (a.isnan() & b.isnan())
    difference = float(torch.where(same, 0.0, (a - b).abs()).max())
    if not right.is_floating_point():
        return difference
    return difference / (float(a.std()) or float(a.abs().max()) or 1.0)
