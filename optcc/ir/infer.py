"""Type inference: run an operator on fake tensors.

Types depend only on the operator, its constants and its operands' types, so results are remembered: thirty identical
layers cost as much as one. That makes re-checking every node after every pass affordable.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx

from optcc.errors import IRCheckFailed
from optcc.ir.dims import Dims
from optcc.ir.types import Value, show_type
from optcc.ir.weights import WeightStore

DIM_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "getitem": operator.getitem,
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "neg": operator.neg,
    "sym_max": torch.sym_max,
    "sym_min": torch.sym_min,
}
"""The plain functions a graph may call besides operators: picking from a tuple, and arithmetic on dims."""


class Inference:
    """Infers and remembers types for one module."""

    def __init__(self, dims: Dims, weights: WeightStore) -> None:
        self._dims = dims
        self._weights = weights
        self._known: dict[str, Value] = {}

    def infer(self, node: fx.Node) -> Value:
        """The node's type from its operands' recorded types.

        Raises:
            IRCheckFailed: the operator isn't one a graph may call, or refuses its operands.
        """
        if node.op == "placeholder":
            value: Value = node.meta["val"]
            return value
        if node.op == "get_attr":
            return self._weight(str(node.target))
        if node.op == "output":
            return None
        if node.target is operator.getitem:
            source, index = node.args
            assert isinstance(source, fx.Node)
            picked: Value = source.meta["val"][index]
            return picked
        return self._call(node)

    def _weight(self, name: str) -> Value:
        if name not in self._weights:
            raise IRCheckFailed(f"weight @{name} is not in the store")
        dtype, shape = self._weights.spec(name)
        key = f"@{dtype}{shape}"
        if key not in self._known:
            self._known[key] = self._dims.tensor(dtype, shape)
        return self._known[key]

    def _call(self, node: fx.Node) -> Value:
        target = node.target
        if not isinstance(target, torch._ops.OpOverload) and target not in DIM_FUNCTIONS.values():
            raise IRCheckFailed(
                f"%{node.name} calls {target}, which is no operator", where=node.meta.get("source")
            )
        key = f"{target}{self._show(node.args)}{self._show(node.kwargs)}"
        if key not in self._known:
            args = fx.map_arg(node.args, lambda n: n.meta["val"])
            kwargs = fx.map_arg(node.kwargs, lambda n: n.meta["val"])
            try:
                with self._dims.mode, _quiet():
                    self._known[key] = target(*args, **kwargs)  # type: ignore[operator]
            except Exception as error:
                first = str(error).strip().splitlines()
                raise IRCheckFailed(
                    f"%{node.name} = {target}: the operands {self._show(node.args)} don't fit: "
                    f"{first[0] if first else type(error).__name__}",
                    where=node.meta.get("source"),
                ) from error
        return self._known[key]

    def _show(self, value: object) -> str:
        if isinstance(value, fx.Node):
            return (
                show_type(value.meta["val"], self._dims) if "val" in value.meta else f"untyped %{value.name}"
            )
        if isinstance(value, tuple | list):
            return "(" + ", ".join(self._show(v) for v in value) + ")"
        if isinstance(value, dict):
            return "{" + ", ".join(f"{k}: {self._show(v)}" for k, v in value.items()) + "}"
        return repr(value)


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch logs a traceback when a fake kernel refuses its operands; our error says it already."""
    loggers = [logging.getLogger(name) for name in ("torch._subclasses.fake_tensor", "torch.fx.experimental")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
