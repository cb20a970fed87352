"""Builds one ONNX graph: operators, constants and views of the weight file, with names that never change."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from optcc.artifact.weights import Span
from optcc.backends.onnxruntime.lower.storage import Storage
from optcc.backends.onnxruntime.lower.types import ONNX, array, dtype_of, shape_of, val
from optcc.ir.module import Module

if TYPE_CHECKING:
    import onnx_ir as ir

WEIGHTS = "weights.safetensors"
MICROSOFT = "com.microsoft"

Attributes = Mapping[str, int | float | str | Sequence[int]]
Operand: TypeAlias = "ir.Value | None"
T = TypeVar("T")


class Emitter:
    """The graph being built.

    Args:
        module: what is lowered.
        spans: where each stored tensor lies in the weight file.
        storage: which weights are stored otherwise than the module has them.
    """

    def __init__(self, module: Module, spans: Mapping[str, Span], storage: Storage) -> None:
        self.module = module
        self.spans = spans
        self.repackings = storage.repackings
        self.native = storage.native
        self.nodes: list[ir.Node] = []
        self.initializers: dict[str, ir.Value] = {}
        self.values: dict[fx.Node, Any] = {}
        self.taken_in: set[fx.Node] = set()  # whose values are those of the one node that reads them
        self.extra_outputs: list[ir.Value] = []
        self.scope = ""
        self._shared: dict[Hashable, Any] = {}
        self._counts: dict[str, int] = {}

    def op(
        self, kind: str, inputs: Sequence[Operand], attributes: Attributes | None = None, domain: str = ""
    ) -> ir.Value:
        """An operator with one result."""
        return self.ops(kind, inputs, attributes, domain, outputs=1)[0]

    def ops(
        self,
        kind: str,
        inputs: Sequence[Operand],
        attributes: Attributes | None = None,
        domain: str = "",
        outputs: int = 1,
    ) -> Sequence[ir.Value]:
        """An operator with several results."""
        import onnx_ir as ir

        name = self._name(kind)
        node = ir.node(
            kind, list(inputs), dict(attributes or {}), domain=domain, num_outputs=outputs, name=name
        )
        for index, value in enumerate(node.outputs):
            value.name = name if index == 0 else f"{name}:{index}"
        self.nodes.append(node)
        return node.outputs

    def _name(self, kind: str) -> str:
        """`<fx node>/<operator>`, numbered from the second on; no fx name has a slash."""
        base = f"{self.scope}/{kind}"
        count = self._counts[base] = self._counts.get(base, 0) + 1
        return base if count == 1 else f"{base}.{count}"

    def constant(self, data: npt.NDArray[Any]) -> ir.Value:
        """A small constant kept in the graph itself; equal ones are one."""
        key = ("constant", data.dtype.str, data.shape, data.tobytes())

        def make() -> ir.Value:
            from onnx_ir import tensor

            return self._initializer(f"const/{len(self.initializers)}", tensor(data))

        return self.shared(key, make)

    def number(self, value: Any, dtype: torch.dtype) -> ir.Value:
        """A 0-d constant."""
        return self.constant(array(value, dtype))

    def ints(self, values: Sequence[int]) -> ir.Value:
        """i64[n]: axes, shapes."""
        return self.constant(np.array(values, np.int64))

    def stored(self, name: str, dtype: torch.dtype, shape: Sequence[int]) -> ir.Value:
        """A view of a tensor in the weight file; two views of one tensor share its bytes."""
        key = f"@{name}:{ONNX[dtype]}{list(shape)}"
        span = self.spans[name]

        def make() -> ir.Value:
            import onnx_ir as ir

            kind, place = ir.DataType(ONNX[dtype]), (span.offset, span.nbytes)
            tensor = ir.ExternalTensor(WEIGHTS, *place, kind, shape=ir.Shape(shape), name=key)
            return self._initializer(key, tensor)

        return self.shared(key, make)

    def _initializer(self, name: str, tensor: Any) -> ir.Value:
        import onnx_ir as ir

        tensor.name = name
        value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=tensor.shape)
        self.initializers[name] = value
        return value

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is computed once per graph, whoever asks first."""
        if key not in self._shared:
            self._shared[key] = make()
        found: T = self._shared[key]
        return found

    def scoped(self, scope: str, make: Callable[[], T]) -> T:
        """Run `make` with another scope for names, for values that many nodes share."""
        before, self.scope = self.scope, scope
        try:
            return make()
        finally:
            self.scope = before

    def value(self, node: Any) -> ir.Value:
        """A node's value; a number becomes a constant; a weight a view of the file."""
        if not isinstance(node, fx.Node):
            return self.number(node, dtype_of(node))
        if node.op == "get_attr":
            return self._weight(node)
        found: ir.Value = self.values[node]
        return found

    def _weight(self, node: fx.Node) -> ir.Value:
        kind = val(node)
        shape = [int(d) for d in kind.shape]
        if kind.numel() == 0:
            return self.constant(np.zeros(shape, self.module.weights[str(node.target)].numpy().dtype))
        name = str(node.target)
        if name in self.repackings:
            return self.stored(name, torch.uint8, self.repackings[name].shape)
        return self.stored(name, kind.dtype, shape)

    def cast(self, node: Any, dtype: torch.dtype) -> ir.Value:
        """A node's value as `dtype`; numbers are converted here and now."""
        if not isinstance(node, fx.Node):
            return self.number(node, dtype)
        value = self.value(node)
        return value if dtype_of(node) == dtype else self.op("Cast", [value], {"to": ONNX[dtype]})

    def to(self, value: ir.Value, dtype: torch.dtype) -> ir.Value:
        """Cast a value whatever it is."""
        return self.op("Cast", [value], {"to": ONNX[dtype]})

    def reshape(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """Reshape to constants, one of which may be -1; 0 keeps a dim.

        A reshape of a reshape reads the first one's operand, and one that changes nothing is none: each costs a call
        per step.
        """
        producer = value.producer()
        while producer is not None and producer.op_type == "Reshape" and 0 not in shape:
            first = producer.inputs[0]
            assert first is not None
            value, producer = first, first.producer()
        if value.shape is not None and _is(value.shape, shape):
            return value
        return self.op("Reshape", [value, self.ints(shape)])

    def dims(self, sizes: Sequence[Any]) -> ir.Value:
        """i64[n] from integers and dim nodes."""
        if all(isinstance(s, int) for s in sizes):
            return self.ints(sizes)
        parts = [
            self.ints([s]) if isinstance(s, int) else self.op("Reshape", [self.value(s), self.ints([1])])
            for s in sizes
        ]
        return parts[0] if len(parts) == 1 else self.op("Concat", parts, {"axis": 0})

    def reshape_like(self, value: ir.Value, node: fx.Node, sizes: Sequence[Any]) -> ir.Value:
        """Reshape to the node's own shape.

        Args:
            value: what is reshaped.
            node: whose type has the shape.
            sizes: torch's operand: integers, -1, dim nodes. Only read when more than one dim is symbolic.
        """
        shape = shape_of(node)
        if shape.count(None) <= 1:
            return self.reshape(value, [-1 if d is None else d for d in shape])
        return self.op(
            "Reshape",
            [value, self.dims([d if d is not None else s for d, s in zip(shape, sizes, strict=True)])],
        )


def _is(known: ir.Shape, wanted: Sequence[int]) -> bool:
    """Whether a reshape to `wanted`, one dim of which may be -1, changes nothing."""
    return len(known) == len(wanted) and all(w in (-1, k) for k, w in zip(known, wanted, strict=True))
