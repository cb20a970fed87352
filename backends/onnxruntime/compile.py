"""A module as `model.onnx`: small, deterministic, its weights in the artifact's weight file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import fx

from optcc.artifact.weights import Span
from optcc.backends.onnxruntime.emit import DTYPES, OPSETS, Emit
from optcc.backends.onnxruntime.lower import lower_node
from optcc.errors import BackendCompileFailed, UnsupportedOp
from optcc.files import write_atomic
from optcc.ir.module import Module, source_of
from optcc.ir.text import target_name

IR_VERSION = 11
MODEL_FILE = "model.onnx"


def write_model(module: Module, root: Path, spans: Mapping[str, Span]) -> None:
    """Lower the main graph.

    Raises:
        UnsupportedOp: a node without lowering, with its source line.
        BackendCompileFailed: a lowering met something it should have refused.
    """
    emit = Emit(module, spans)
    inputs = [_input(emit, node) for node in module.inputs()]
    for node in module.graph.nodes:
        if node.op == "call_function":
            emit.values[node] = _lower(emit, node)
    outputs = _outputs(emit, module)
    graph = ir.Graph(
        inputs,
        outputs,
        nodes=emit.nodes,
        initializers=list(emit.initializers.values()),
        opset_imports=dict(OPSETS),
        name="model",
    )
    model = ir.Model(graph, ir_version=IR_VERSION, producer_name="optcc")
    data = ir.serde.serialize_model(model).SerializeToString(deterministic=True)
    write_atomic(root / MODEL_FILE, data)


def _input(emit: Emit, node: fx.Node) -> ir.Value:
    value = _typed(emit, node.name, node.meta["val"])
    emit.values[node] = value
    return value


def _typed(emit: Emit, name: str, fake: torch.Tensor) -> ir.Value:
    shape = ir.Shape([d if isinstance(d, int) else emit.module.dims.show(d) for d in fake.shape])
    return ir.Value(name=name, type=ir.TensorType(DTYPES[fake.dtype]), shape=shape)


def _lower(emit: Emit, node: fx.Node) -> Any:
    try:
        return lower_node(emit, node)
    except KeyError as error:
        if error.args == (target_name(node),):
            raise UnsupportedOp(f"ONNX Runtime has no lowering for {node.target}", where=source_of(node)) from error
        raise BackendCompileFailed(f"can't lower %{node.name} = {node.target}: {error}", where=source_of(node)) from error
    except (AssertionError, ValueError, TypeError) as error:
        raise BackendCompileFailed(f"can't lower %{node.name} = {node.target}: {error}", where=source_of(node)) from error


def _outputs(emit: Emit, module: Module) -> list[ir.Value]:
    """The graph's results under their names, then the written pools. A result that is an input or is returned twice
    gets a node of its own, because ONNX names values, not places."""
    results = module.graph.output_node().args[0]
    assert isinstance(results, tuple)
    produced = {id(v) for node in emit.nodes for v in node.outputs}
    outputs: list[ir.Value] = []
    for name, node in zip(module.output_names(), results, strict=True):
        assert isinstance(node, fx.Node)
        value = emit.value(node)
        if id(value) not in produced or any(value is o for o in outputs):
            value = emit.op("Identity", [value])
        outputs.append(_named(emit, value, name, node.meta["val"]))
    pools = {n.name: n.meta["val"] for n in module.inputs()}
    for name, value in emit.extra_outputs.items():
        outputs.append(_named(emit, value, name, pools[name.removesuffix(".out")]))
    return outputs


def _named(emit: Emit, value: ir.Value, name: str, fake: torch.Tensor) -> ir.Value:
    typed = _typed(emit, name, fake)
    value.name, value.type, value.shape = name, typed.type, typed.shape
    return value
