"""A captured program as a Module: weights become references, dims get names, every type is inferred anew.

After this nothing of torch.export is left: the module's graph holds operators over named weights and named inputs.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import fx

import optcc.ir.ops  # noqa: F401 - registers the operators the text and the graph name
from optcc.errors import CaptureFailed
from optcc.frontend.locate import stack_source
from optcc.frontend.program import CapturedProgram, WeightSource
from optcc.frontend.quantized.attach import round_inputs
from optcc.ir.infer import DIM_FUNCTIONS
from optcc.ir.module import Module
from optcc.ir.weights import TensorRef, WeightStore

_SKIPPED = {
    "aten._assert_tensor_metadata.default",
    "aten._assert_scalar.default",
    "aten.sym_constrain_range.default",
}
_WRAPPERS = {"wrap_with_set_grad_enabled", "wrap_with_autocast"}


def to_module(program: CapturedProgram, directory: Path | None = None) -> Module:
    """The program as a module.

    Args:
        program: what `capture` returned.
        directory: where weights that passes make are written; a temporary directory when omitted.

    Raises:
        CaptureFailed: the graph holds control flow or another thing a module can't.
    """
    exported = program.exported
    if _writes(exported.graph):
        exported = exported.run_decompositions({})
    module = Module(WeightStore(directory))
    _add_weights(module.weights, program.weights)
    module.attrs["kind"] = program.kind
    module.attrs["facts"] = dict(program.facts)
    if program.limits:
        module.attrs["limits"] = dict(program.limits)
    if program.spec:
        module.attrs["decoder"] = {**asdict(program.spec), "eos_token_ids": list(program.spec.eos_token_ids)}
    graph = fx.Graph()
    module.graphs["model"] = graph
    values: dict[fx.Node, Any] = {}
    user_inputs = dict(zip(exported.graph_signature.user_inputs, program.inputs, strict=True))
    for node in exported.graph.find_nodes(op="placeholder"):
        if node.name in program.placeholders:
            if node.users:
                name = program.placeholders[node.name]
                read = _packed_weight if program.weights[name].packed else _weight
                values[node] = read(module, graph, name, program.weights[name])
        elif node.name in user_inputs:
            values[node] = _input(module, graph, user_inputs[node.name], node, program)
    _copy(module, graph, exported.graph_module, values)
    round_inputs(module, program.weights)
    results = [values[n] for n in exported.graph.output_node().args[0]]
    output = graph.output(tuple(results))
    output.meta.update(names=program.outputs, val=None)
    module.tidy()
    return module


def _writes(graph: fx.Graph) -> bool:
    """Whether some operator changes a tensor in place (a user's `relu_`); such graphs are functionalized first."""
    targets = [n.target for n in graph.nodes if isinstance(n.target, torch._ops.OpOverload)]
    return any(t._schema.is_mutable for t in targets)


def _add_weights(store: WeightStore, weights: Mapping[str, WeightSource]) -> None:
    for name, source in weights.items():
        if source.packed is not None:
            _add_weights(store, {f"{name}.{part}": held for part, held in source.packed.parts().items()})
            continue
        if source.path is None:
            store.put(name, source.load())
            continue
        cast = source.cast_to if source.cast_to != source.dtype else None
        store.refs[name] = TensorRef(
            source.path, source.offset, source.nbytes, source.dtype, source.shape, cast
        )


def _packed_weight(module: Module, graph: fx.Graph, name: str, source: WeightSource) -> fx.Node:
    """`dequantize` of a quantized checkpoint's weight, as a quantization pass would have left it."""
    form = source.packed
    assert form is not None
    parts = form.parts()

    def read(part: str) -> fx.Node | None:
        return _weight(module, graph, f"{name}.{part}", parts[part]) if part in parts else None

    stored = [read(part) for part in ("packed", "scale", "zero", "tensor_scale")]
    layout = (form.format, form.group, form.rows, source.cast_to or source.dtype)
    node = graph.create_node(
        "call_function", torch.ops.optcc.dequantize.default, (*stored, *layout), name="dequantize"
    )
    module.infer(node)
    return node


def _weight(module: Module, graph: fx.Graph, name: str, source: WeightSource) -> fx.Node:
    for found in graph.find_nodes(op="get_attr", target=name):
        assert isinstance(found, fx.Node)
        return found
    node = graph.create_node("get_attr", name, name="w_" + re.sub(r"\W", "_", name))
    module.infer(node)
    return node


def _input(module: Module, graph: fx.Graph, name: str, old: fx.Node, program: CapturedProgram) -> fx.Node:
    node = graph.placeholder(name)
    node.name = (
        name  # fx renames what Python calls a function, such as `input`; callers know the input by its name
    )
    shape = [d if isinstance(d, int) else module.dims.parse(d) for d in program.dims[name]]
    node.meta["val"] = module.dims.tensor(old.meta["val"].dtype, shape)
    return node


def _copy(module: Module, graph: fx.Graph, owner: fx.GraphModule, values: dict[fx.Node, Any]) -> None:
    """Copy the calls of one graph; the bodies of no-grad and autocast regions are copied in place."""
    for node in owner.graph.nodes:
        if node.op != "call_function" or str(node.target) in _SKIPPED:
            continue
        name = getattr(node.target, "__name__", str(node.target))
        if name in _WRAPPERS:
            values[node] = _inline(module, graph, owner, node, values)
        elif node.target is operator.getitem and not isinstance(values[node.args[0]], fx.Node):
            values[node] = values[node.args[0]][node.args[1]]
        else:
            values[node] = _call(module, graph, node, values)


def _inline(
    module: Module, graph: fx.Graph, owner: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Any]
) -> list[Any]:
    at = next(i for i, a in enumerate(node.args) if isinstance(a, fx.Node) and a.op == "get_attr")
    body_node = node.args[at]
    assert isinstance(body_node, fx.Node)
    if "autocast" in str(node.target) and node.args[2] is True:
        raise CaptureFailed("the model turns autocast on, which changes the types of what it computes")
    body = getattr(owner, str(body_node.target))
    assert isinstance(body, fx.GraphModule)
    inner: dict[fx.Node, Any] = {}
    for parameter, argument in zip(body.graph.find_nodes(op="placeholder"), node.args[at + 1 :], strict=True):
        inner[parameter] = values[argument] if isinstance(argument, fx.Node) else argument
    _copy(module, graph, body, inner)
    results = body.graph.output_node().args[0]
    assert isinstance(results, tuple | list)
    return [inner[r] if isinstance(r, fx.Node) else r for r in results]


def _call(module: Module, graph: fx.Graph, node: fx.Node, values: dict[fx.Node, Any]) -> fx.Node:
    source = stack_source(node.meta.get("stack_trace"))
    if not isinstance(node.target, torch._ops.OpOverload) and node.target not in DIM_FUNCTIONS.values():
        raise CaptureFailed(
            f"the graph calls {getattr(node.target, '__name__', node.target)}, which no backend can run",
            where=source,
            hint="write control flow over tensors as plain operators (torch.where), or keep it out of the model",
        )
    args = fx.map_arg(node.args, lambda n: values[n])
    kwargs = fx.map_arg(node.kwargs, lambda n: values[n])
    new = graph.create_node("call_function", node.target, args, kwargs, name=node.name)
    if source:
        new.meta["source"] = source
    module.infer(new)
    return new
