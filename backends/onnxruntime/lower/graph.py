"""A whole module as one ONNX model; the same module gives the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import fx

from optcc.artifact.weights import Span
from optcc.backends.onnxruntime import native
from optcc.backends.onnxruntime.lower import families  # noqa: F401 - registers the lowerings
from optcc.backends.onnxruntime.lower.chain import chain
from optcc.backends.onnxruntime.lower.emit import MICROSOFT, Emitter
from optcc.backends.onnxruntime.lower.pools import stack_pools
from optcc.backends.onnxruntime.lower.registry import RULES, operands
from optcc.backends.onnxruntime.lower.storage import plan_storage
from optcc.backends.onnxruntime.lower.types import ONNX, STORED
from optcc.errors import BackendCompileFailed, UnsupportedOp
from optcc.ir.module import Module, source_of
from optcc.ir.text import target_name

if TYPE_CHECKING:
    import onnx_ir as ir

OPSET = 21
IR_VERSION = 10


def lower(module: Module, spans: Mapping[str, Span], *, inputs_as_they_are: bool = False) -> bytes:
    """The main graph as a serialized ONNX model whose weights are views of `weights.safetensors`.

    Args:
        module: what to lower.
        spans: where each weight lies.
        inputs_as_they_are: for whoever gives inputs by the module's names; otherwise layers may share theirs.

    Raises:
        UnsupportedOp: an operator without a lowering; preflight finds it earlier.
        BackendCompileFailed: an input and an output share a name.
    """
    import onnx_ir as ir

    emit = Emitter(module, spans, plan_storage(module))
    inputs = [_input(emit, node) for node in module.inputs()]
    for node in module.graph.nodes:
        if node.op == "call_function":
            emit.scope = node.name
            emit.values[node] = _emit(emit, node)
    outputs = _outputs(emit) + emit.extra_outputs
    live = chain(_live(emit.nodes, outputs), outputs)
    graph = ir.Graph(
        inputs if inputs_as_they_are else stack_pools(inputs, live),
        outputs,
        nodes=live,
        initializers=_read(emit, live),
        opset_imports={"": OPSET, MICROSOFT: 1} | ({native.DOMAIN: 1} if _is_native(live) else {}),
        name="model",
    )
    model = ir.Model(graph, ir_version=IR_VERSION, producer_name="optcc")
    serialized: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return serialized


def _is_native(nodes: list[ir.Node]) -> bool:
    """Whether the graph needs our own library."""
    return any(node.domain == native.DOMAIN for node in nodes)


def _live(nodes: list[ir.Node], outputs: list[ir.Value]) -> list[ir.Node]:
    """The nodes that a result depends on; ONNX Runtime runs the others too."""
    wanted = {id(value) for value in outputs}
    live = []
    for node in reversed(nodes):
        if any(id(value) in wanted for value in node.outputs):
            live.append(node)
            wanted |= {id(value) for value in node.inputs if value is not None}
    return live[::-1]


def _read(emit: Emitter, nodes: list[ir.Node]) -> list[ir.Value]:
    """The initializers that some node reads."""
    used = {id(value) for node in nodes for value in node.inputs}
    return [value for value in emit.initializers.values() if id(value) in used]


def _input(emit: Emitter, node: fx.Node) -> ir.Value:
    import onnx_ir as ir

    value = emit.values[node] = _typed(emit, node, ir.Value(name=node.name))
    return value


def _typed(emit: Emitter, node: fx.Node, value: ir.Value) -> ir.Value:
    import onnx_ir as ir

    kind = node.meta["val"]
    if kind.dtype not in STORED:
        raise UnsupportedOp(
            f"{node.name} is of type {kind.dtype}", hint="set `dtype: float32` under `model:`"
        )
    value.type = ir.TensorType(ir.DataType(ONNX[kind.dtype]))
    value.shape = ir.Shape([d if isinstance(d, int) else emit.module.dims.show(d) for d in kind.shape])
    return value


def _emit(emit: Emitter, node: fx.Node) -> Any:
    rule = RULES.get(target_name(node))
    reason = f"{target_name(node)} has no lowering" if rule is None else rule.refuse(node, operands(node))
    if rule is None or reason:
        raise UnsupportedOp(f"{target_name(node)}: {reason}", where=source_of(node) or f"%{node.name}")
    return rule.lower(emit, node, operands(node))


def _outputs(emit: Emitter) -> list[ir.Value]:
    """The results under their own names. Each becomes a value of its own, whatever it is a view of."""
    emit.scope = "return"
    results = emit.module.graph.output_node().args[0]
    assert isinstance(results, tuple)
    taken = {node.name for node in emit.module.inputs()}
    found = []
    for name, node in zip(emit.module.output_names(), results, strict=True):
        if name in taken:
            raise BackendCompileFailed(
                f"an input and a result are both called {name}", hint="rename one of them"
            )
        assert isinstance(node, fx.Node)
        value = emit.op("Identity", [emit.value(node)])
        value.name = name
        found.append(_typed(emit, node, value))
    return found
