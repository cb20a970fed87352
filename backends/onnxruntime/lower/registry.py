"""Operator name -> how it is lowered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from torch import fx

from optcc.backends.onnxruntime.lower.emit import Emitter
from optcc.ir.pattern import normalized

if TYPE_CHECKING:
    import onnx_ir as ir

Lowering = Callable[[Emitter, fx.Node, list[Any]], "ir.Value | list[ir.Value]"]
"""Emits a node, given its operands in schema order with defaults filled in."""
F = TypeVar("F", bound=Lowering)
Refusal = Callable[[fx.Node, list[Any]], str | None]
"""Why a node can't be lowered, from its constants and types alone."""


@dataclass(frozen=True)
class Rule:
    """How one operator is lowered, when it isn't, and whether it takes float16, which few operators have on a CPU."""

    lower: Lowering
    refuse: Refusal
    half: bool


RULES: dict[str, Rule] = {}
"""Filled by the modules of this package when they are imported."""


def _accept(node: fx.Node, operands: list[Any]) -> str | None:
    return None


def lowers(*names: str, refuse: Refusal = _accept, half: bool = False) -> Callable[[F], F]:
    """Register a lowering for operators, named as IR text names them."""

    def add(function: F) -> F:
        for name in names:
            if name in RULES:
                raise ValueError(f"{name} has two lowerings")
            RULES[name] = Rule(function, refuse, half)
        return function

    return add


def operands(node: fx.Node) -> list[Any]:
    """A node's operands in schema order, defaults filled in."""
    return normalized(node)[0]
