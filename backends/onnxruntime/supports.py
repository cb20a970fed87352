"""Which nodes ONNX Runtime takes, and why it refuses the others."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from optcc.backends.onnxruntime.lower import families  # noqa: F401 - registers the lowerings
from optcc.backends.onnxruntime.lower.registry import RULES, operands
from optcc.backends.onnxruntime.lower.types import COMPUTED
from optcc.ir.pattern import normalized
from optcc.ir.text import target_name


def refusal(node: fx.Node) -> str | None:
    """Why a node can't be lowered, or None."""
    if node.op != "call_function":
        return None
    rule = RULES.get(target_name(node))
    if rule is None:
        return "ONNX Runtime has no lowering for it"
    if reason := rule.refuse(node, operands(node)):
        return reason
    if target_name(node) == "getitem":
        return None  # the operator that made the tuple speaks for its parts
    for dtype in _types(node):
        if dtype not in COMPUTED and not (rule.half and dtype == torch.float16):
            return f"{str(dtype).removeprefix('torch.')} has no kernels on a CPU; set `dtype: float32` under `model:`"
    return None


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
    # What quantized operators store is for their own rules to take or refuse.
    stored = "packed" in normalized(node)[1]
    for operand in node.all_input_nodes:
        if not (stored and operand.op == "get_attr"):
            add(operand.meta["val"])
    return found
