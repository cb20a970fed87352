"""A graph whose chains of linears are single linears again, for whoever looks at one of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from optcc.backends.onnxruntime.lower.chain import EACH, LINEAR, LINEARS, MOST, RESIDUAL, ROWS, member, owners
from optcc.backends.onnxruntime.native import DOMAIN

if TYPE_CHECKING:
    import onnx


def separate(model: onnx.ModelProto) -> None:
    """Undo `lower.chain` in place: the same linears under their own names, called one by one."""
    apart = [one for node in model.graph.node for one in _members(node)]
    del model.graph.node[:]
    model.graph.node.extend(apart)


def _members(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """The linears of a chain; any other node itself."""
    from onnx import helper

    if node.domain != DOMAIN or node.op_type != LINEARS:
        yield node
        return
    results: dict[bytes, str] = {}  # as a later linear names them
    for index, owner in enumerate(owners(node.name)):
        name = f"{owner}/{LINEAR}"
        attributes = {a.name: a for a in node.attribute if a.name != "linears"}
        own = {base: attributes[base + member(index)] for base in _bases(attributes, index)}
        inputs = [*node.input[EACH * index : EACH * (index + 1)], *[""] * EACH][:EACH]
        for port, source in ROWS.items():
            if source in own:
                inputs[port] = results.get(own.pop(source).s, inputs[port])
        outputs = [name, f"{name}:1"] if inputs[RESIDUAL] else [name]
        results |= {b"y": name, f"total{index}".encode(): outputs[-1]}
        while not inputs[-1]:
            inputs.pop()
        one = helper.make_node(LINEAR, inputs, outputs, name, domain=DOMAIN)
        for base, attribute in own.items():
            one.attribute.add().CopyFrom(attribute)
            one.attribute[-1].name = base
        yield one


def _bases(names: Iterable[str], index: int) -> list[str]:
    """Attributes of one linear as it has them alone."""
    if index:
        return [name.removesuffix(member(index)) for name in names if name.endswith(member(index))]
    return [name for name in names if not any(name.endswith(member(i)) for i in range(1, MOST))]
