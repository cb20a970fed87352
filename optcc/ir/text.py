"""A module as text: deterministic, typed, and read back by `optcc.ir.parse`.

    optcc.ir 1
    attrs {"kind": "decoder"}
    graph model {
      %input_ids : i64[T] = input
      %embedding : f32[T, 64] = aten.embedding.default(@embed.weight, %input_ids)  // modeling_llama.py:391
      return logits = %linear
    }
    weights {
      @embed.weight : f32[160, 64]
    }

`%` is a value, `@` a weight. Every value has its type. The comment is the line of the user's model a node came from.
"""

from __future__ import annotations

import json
import math
import operator

import torch
from torch import fx

from optcc.ir.infer import DIM_FUNCTIONS
from optcc.ir.module import Module
from optcc.ir.types import DTYPE_NAMES, show_type

VERSION = 1
_FUNCTION_NAMES = {function: name for name, function in DIM_FUNCTIONS.items()}


def module_text(module: Module) -> str:
    """The whole module, weights by name and type."""
    lines = [f"optcc.ir {VERSION}"]
    if module.attrs:
        lines.append("attrs " + json.dumps(module.attrs, sort_keys=True, ensure_ascii=False))
    for name in sorted(module.graphs):
        lines += _graph_lines(module, name)
    lines.append("weights {")
    for name in sorted(module.weights):
        dtype, shape = module.weights.spec(name)
        lines.append(f"  {weight_name(name)} : {DTYPE_NAMES[dtype]}[{', '.join(map(str, shape))}]")
    return "\n".join([*lines, "}"]) + "\n"


def _graph_lines(module: Module, name: str) -> list[str]:
    lines = [f"graph {name} {{"]
    for node in module.graphs[name].nodes:
        if node.op == "get_attr":
            continue
        if node.op == "output":
            results = zip(node.meta["names"], node.args[0], strict=True)
            lines.append("  return " + ", ".join(f"{n} = {show_arg(v)}" for n, v in results))
            continue
        call = "input" if node.op == "placeholder" else f"{target_name(node)}({_show_args(node)})"
        source = f"  // {node.meta['source']}" if node.meta.get("source") else ""
        lines.append(f"  %{node.name} : {show_type(node.meta['val'], module.dims)} = {call}{source}")
    return [*lines, "}"]


def target_name(node: fx.Node) -> str:
    """`aten.linear.default`, `optcc.rope.default`, `getitem`, `mul`."""
    if node.target in _FUNCTION_NAMES:
        return _FUNCTION_NAMES[node.target]
    return str(node.target)


def weight_name(name: str) -> str:
    """A weight's name with its sigil; quoted when it holds anything but letters, digits, `_`, `.`, `-` and `/`."""
    plain = all(c.isalnum() or c in "_.-/" for c in name)
    return f"@{name}" if plain else f"@{json.dumps(name)}"


def _show_args(node: fx.Node) -> str:
    parts = [show_arg(a) for a in node.args]
    return ", ".join(parts + [f"{k}={show_arg(v)}" for k, v in node.kwargs.items()])


def show_arg(value: object) -> str:
    """One operand or constant."""
    if isinstance(value, fx.Node):
        return weight_name(str(value.target)) if value.op == "get_attr" else f"%{value.name}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(show_arg(v) for v in value) + "]"
    if isinstance(value, torch.dtype):
        return DTYPE_NAMES[value]
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: "inf", -math.inf: "-inf"}.get(value, "nan")
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    return f"<{value}>"  # torch.device, memory_format, layout: enumerations torch prints by name


def same_target(node: fx.Node, name: str) -> bool:
    """Whether a node calls the operator of this name; spares callers the OpOverload object."""
    return node.op == "call_function" and (
        str(node.target) == name or node.target is getattr(operator, name, None)
    )
