"""Building the ONNX graph: values by fx node, constants stored once, weights by their place in the weight file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import fx

from optcc.artifact.weights import Span
from optcc.ir.module import Module

CONTRIB = "com.microsoft"
OPSETS = {"": 23, CONTRIB: 1}
WEIGHT_FILE = "weights.safetensors"

DTYPES = {
    torch.float64: ir.DataType.DOUBLE,
    torch.float32: ir.DataType.FLOAT,
    torch.float16: ir.DataType.FLOAT16,
    torch.bfloat16: ir.DataType.BFLOAT16,
    torch.int64: ir.DataType.INT64,
    torch.int32: ir.DataType.INT32,
    torch.int16: ir.DataType.INT16,
    torch.int8: ir.DataType.INT8,
    torch.uint8: ir.DataType.UINT8,
    torch.bool: ir.DataType.BOOL,
}
Attribute = int | float | str | Sequence[int] | Sequence[float]


class Emit:
    """One graph being lowered.

    Attributes:
        module: what is lowered.
        values: the ONNX value of each fx node lowered so far; a list of them for tuples.
        shared: values that several lowerings share, by key (attention's index tensors).
        extra_outputs: name -> value of outputs besides the graph's own (KV pools).
    """

    def __init__(self, module: Module, spans: Mapping[str, Span]) -> None:
        self.module = module
        self.values: dict[fx.Node, Any] = {}
        self.shared: dict[object, Any] = {}
        self.extra_outputs: dict[str, ir.Value] = {}
        self.nodes: list[ir.Node] = []
        self.initializers: dict[str, ir.Value] = {}
        self._spans = spans
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._count = 0

    def op(
        self, kind: str, inputs: Sequence[ir.Value | None], domain: str = "", **attributes: Attribute
    ) -> ir.Value:
        """Add a node with one result."""
        return self.ops(kind, inputs, 1, domain, **attributes)[0]

    def ops(
        self, kind: str, inputs: Sequence[ir.Value | None], outputs: int, domain: str = "", **attributes: Attribute
    ) -> list[ir.Value]:
        """Add a node with several results."""
        self._count += 1
        name = f"{kind}_{self._count}"
        node = ir.node(kind, list(inputs), attributes, domain=domain, num_outputs=outputs, name=name)
        for index, value in enumerate(node.outputs):
            value.name = name if outputs == 1 else f"{name}.{index}"
        self.nodes.append(node)
        return list(node.outputs)

    def const(self, value: npt.ArrayLike, dtype: npt.DTypeLike) -> ir.Value:
        """A small constant; equal ones are stored once."""
        array = np.asarray(value, dtype)
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            name = f"const_{len(self._constants)}"
            self._constants[key] = self._initializer(name, ir.tensor(array, name=name))
        return self._constants[key]

    def ints(self, *values: int) -> ir.Value:
        """An int64 vector."""
        return self.const(values, np.int64)

    def scalar(self, value: float, dtype: torch.dtype) -> ir.Value:
        """A scalar of torch type `dtype`."""
        tensor = torch.tensor(value, dtype=dtype)
        if dtype == torch.bfloat16:
            return self.op("Cast", [self.const(float(value), np.float32)], to=int(DTYPES[dtype]))
        return self.const(tensor.numpy(), tensor.numpy().dtype)

    def weight(self, name: str, dtype: ir.DataType, shape: Sequence[int]) -> ir.Value:
        """A tensor of the weight file, seen as `dtype` and `shape`; several views of one tensor may coexist."""
        key = f"{name}|{'x'.join(map(str, shape))}"
        if key not in self.initializers:
            span = self._spans[name]
            tensor = ir.ExternalTensor(
                WEIGHT_FILE, span.offset, span.nbytes, dtype, shape=ir.Shape(shape), name=key, base_dir=""
            )
            self._initializer(key, tensor)
        return self.initializers[key]

    def _initializer(self, name: str, tensor: Any) -> ir.Value:
        value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=tensor.shape)
        self.initializers[name] = value
        return value

    def value(self, node: object) -> ir.Value:
        """The ONNX value of an fx operand that is a tensor; weights are brought in as they are stored."""
        assert isinstance(node, fx.Node), f"{node!r} is no value"
        if node not in self.values and node.op == "get_attr":
            fake = node.meta["val"]
            return self.weight(str(node.target), DTYPES[fake.dtype], [int(n) for n in fake.shape])
        value = self.values[node]
        assert isinstance(value, ir.Value)
        return value

    def dim(self, value: object) -> ir.Value:
        """A size as an int64 vector of one element: an integer, or a node that computes one."""
        return self.ints(value) if isinstance(value, int) else self.value(value)

    def dims(self, values: Sequence[object]) -> ir.Value:
        """A shape: constant if all sizes are, else concatenated."""
        if all(isinstance(v, int) for v in values):
            return self.ints(*[int(v) for v in values])  # type: ignore[call-overload]
        return self.op("Concat", [self.dim(v) for v in values], axis=0)

    def cast(self, value: ir.Value, source: torch.dtype, target: torch.dtype) -> ir.Value:
        """The value as another type, if it isn't already."""
        return value if source == target else self.op("Cast", [value], to=int(DTYPES[target]))
