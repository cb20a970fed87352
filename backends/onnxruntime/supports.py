"""Which nodes ONNX Runtime takes, and why it refuses the others."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from optcc.backends.onnxruntime.lower import families  # noqa: F401 - registers the lowerings
from optcc.backends.onnxruntime.lower.registry import RULES, operands
from optcc.backends.onnxruntime.lower.types import ONNX
from optcc.ir.text import target_name


def refusal(node: fx.Node) -> str | None:
    """Why a node can't be lowered, or None."""
    if node.op != "call_function":
        return None
    rule = RULES.get(target_name(node))
    if rule is None:
        return "ONNX Runtime has no lowering for it"
    for dtype in _types(node):
        if dtype not in ONNX:
            return f"{str(dtype).removeprefix('torch.')} has no kernels on a CPU; set `dtype: float32` under `model:`"
    return rule.refuse(node, operands(node))


def _types(node: fx.Node) -> set[torch.dtype]:
    """Element types of a node's operands and results."""
    found: set[torch.dtype] = set()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found.add(value.dtype)
        elif isinstance(value, tuple | list):
            for item in value:
                add(item)

    add(node.meta["val"])
    for operand in node.all_input_nodes:
        add(operand.meta["val"])
    return found
