"""Is this module well formed? Run after every pass by default.

What is checked: graph structure (fx lint), that every node's recorded type is the one its operands give, that only
operators of the given set are called, that KV pools are changed by one node each, and that every weight is read by some
graph and every weight read is in the store.
"""

from __future__ import annotations

from torch import fx

from optcc.errors import IRCheckFailed
from optcc.ir.module import Module, has_effect, source_of
from optcc.ir.opset import OpSet
from optcc.ir.types import show_type


def check_ir(module: Module, ops: OpSet | None = None) -> None:
    """Check every rule.

    Args:
        module: what to check; not changed.
        ops: the operators this stage allows; None allows all.

    Raises:
        IRCheckFailed: the first rule broken, with the node and its source line.
    """
    for name, graph in module.graphs.items():
        try:
            graph.lint()
        except Exception as error:
            raise IRCheckFailed(f"graph {name}: {str(error).splitlines()[0]}") from error
        for node in graph.nodes:
            _check_node(module, node, ops)
        _check_output(name, graph)
    _check_weights(module)


def _check_node(module: Module, node: fx.Node, ops: OpSet | None) -> None:
    if node.op == "output":
        return
    if node.op not in ("placeholder", "get_attr", "call_function"):
        raise IRCheckFailed(f"%{node.name} is a {node.op}, which graphs don't have", where=source_of(node))
    if "val" not in node.meta:
        raise IRCheckFailed(
            f"%{node.name} has no type: the pass that made it must infer one", where=source_of(node)
        )
    recorded = show_type(node.meta["val"], module.dims)
    inferred = show_type(module.inference.infer(node), module.dims)
    if recorded != inferred:
        raise IRCheckFailed(
            f"%{node.name} is recorded as {recorded}, its operands give {inferred}", where=source_of(node)
        )
    if node.op != "call_function":
        return
    if ops is not None and (why := ops.refuse(node)):
        raise IRCheckFailed(f"%{node.name} = {node.target}: {why}", where=source_of(node))
    if has_effect(node):
        _check_effect(node)


def _check_effect(node: fx.Node) -> None:
    """A changed operand must be an input that nobody else reads, or the order of nodes would matter."""
    schema = node.target._schema  # type: ignore[union-attr]
    for argument, value in zip(schema.arguments, node.args, strict=False):
        if argument.alias_info is None or not argument.alias_info.is_write or value is None:
            continue
        if not isinstance(value, fx.Node) or value.op != "placeholder":
            raise IRCheckFailed(f"%{node.name} changes {value}, which is not an input")
        if len(value.users) != 1:
            raise IRCheckFailed(f"%{value.name} is changed by %{node.name} and read by others too")


def _check_output(name: str, graph: fx.Graph) -> None:
    node = graph.output_node()
    names, values = node.meta.get("names"), node.args[0]
    if not names or not isinstance(values, tuple) or len(names) != len(values):
        raise IRCheckFailed(f"graph {name}: the output needs one name per value")


def _check_weights(module: Module) -> None:
    read = {str(n.target) for n in module.nodes() if n.op == "get_attr"}
    dead = sorted(set(module.weights) - read)
    if dead:
        more = f" and {len(dead) - 1} more" if len(dead) > 1 else ""
        raise IRCheckFailed(
            f"weight @{dead[0]}{more} is read by no graph; a pass that drops its use must remove it"
        )
