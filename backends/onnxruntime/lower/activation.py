"""Activations of vision models that ONNX has as operators of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import fx

from optcc.backends.onnxruntime.lower.emit import Emitter
from optcc.backends.onnxruntime.lower.registry import lowers

if TYPE_CHECKING:
    import onnx_ir as ir


@lowers("aten.hardswish.default")
def hardswish(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """`x * clamp(x / 6 + 1/2, 0, 1)`."""
    return emit.op("HardSwish", [emit.value(operands[0])])


@lowers("aten.hardsigmoid.default")
def hardsigmoid(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """`clamp(x / 6 + 1/2, 0, 1)`."""
    return emit.op("HardSigmoid", [emit.value(operands[0])], {"alpha": 1 / 6, "beta": 0.5})


@lowers("aten.leaky_relu.default")
def leaky_relu(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """`x` or `slope * x`."""
    return emit.op("LeakyRelu", [emit.value(operands[0])], {"alpha": float(operands[1])})


def _refuse_scaled(node: fx.Node, operands: list[Any]) -> str | None:
    return None if operands[2:] == [1, 1] else "elu with a scale of its own"


@lowers("aten.elu.default", refuse=_refuse_scaled)
def elu(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """`x` or `alpha * (exp(x) - 1)`."""
    return emit.op("Elu", [emit.value(operands[0])], {"alpha": float(operands[1])})


@lowers("aten.mish.default")
def mish(emit: Emitter, node: fx.Node, operands: list[Any]) -> ir.Value:
    """`x * tanh(softplus(x))`."""
    return emit.op("Mish", [emit.value(operands[0])])
