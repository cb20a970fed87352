"""Chains of quantized linears as one operator: the same bits as one by one, however many threads there are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optcc.backends.onnxruntime import native
from optcc.backends.onnxruntime.lower.chain import LINEAR, LINEARS, MOST, chain
from optcc.backends.onnxruntime.separate import separate
from tests.native.linears import EPSILON, Array, Form, norm_weight, opened, rows, table, weights

if TYPE_CHECKING:
    import onnx_ir as ir

pytestmark = pytest.mark.skipif(native.library() is None, reason=str(native.status()))
ISAS = native.status().usable
HIDDEN = 64


@dataclass(frozen=True)
class Layer:
    """Linears, each of which reads the one before, and a stream of rows of `HIDDEN` beside them."""

    forms: tuple[Form, ...]

    def nodes(self) -> tuple[list[ir.Node], list[ir.Value], list[ir.Value]]:
        """One by one, with the graph's inputs and results: the last product and the last sum."""
        import onnx_ir as ir

        first, stream = _value("x"), _value("stream")
        nodes: list[ir.Node] = []
        x, total = first, stream
        for index, form in enumerate(self.forms):
            adds = form.before == "add_rms_norm"
            given = [total if adds else x, _stored(f"table{index}", table(form))]
            _, bias = weights(form)
            given.append(None if bias is None else _stored(f"bias{index}", bias.numpy()))
            attributes: dict[str, Any] = {
                **form.packing.attributes(),
                "quantize_input": int(form.activations),
            }
            if form.before:
                normed = form.before.endswith("rms_norm")
                attributes |= {"prepare": "rms_norm" if normed else form.before, "epsilon": EPSILON}
                given += [_stored(f"norm{index}", norm_weight(form))] if normed else []
            if form.after:
                attributes["activation"] = form.after
            if form.flatten:
                attributes["flatten"] = 1
            given += [x] if adds else []
            while given[-1] is None:
                given.pop()
            count = 2 if adds else 1
            node = ir.node(LINEAR, given, attributes, domain=native.DOMAIN, num_outputs=count)
            node.name = f"n{index}/{LINEAR}"
            for i, value in enumerate(node.outputs):
                value.name = node.name + (f":{i}" if i else "")
                value.type = ir.TensorType(ir.DataType.FLOAT)
            nodes.append(node)
            x = node.outputs[0]
            total = node.outputs[1] if adds else total
        return nodes, [first, stream], [x] + ([total] if total is not stream else [])

    def model(self, *, joined: bool) -> onnx.ModelProto:
        """As lowering makes it; without joining, one operator to each linear."""
        nodes, inputs, results = self.nodes()
        return _model(chain(nodes, results) if joined else nodes, inputs, results)

    def given(self, count: int) -> dict[str, Array]:
        """Rows of x and of the stream."""
        first = self.forms[0]
        wide = first.inputs * (2 if first.before in ("silu", "gelu_tanh") else 1)
        x = rows(replace(first, inputs=wide), count)
        return {"x": x, "stream": rows(Form(1, HIDDEN, 32), count, seed=2)}


def _value(name: str) -> ir.Value:
    import onnx_ir as ir

    return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([None, None]))


def _stored(name: str, data: Array) -> ir.Value:
    import onnx_ir as ir

    tensor = ir.tensor(data, name=name)
    return ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=tensor.shape)


def _model(nodes: list[ir.Node], inputs: list[ir.Value], results: list[ir.Value]) -> onnx.ModelProto:
    import onnx_ir as ir

    made = {value.name: value for node in nodes for value in node.outputs}
    stored = {v.name: v for node in nodes for v in node.inputs if v is not None and v.const_value is not None}
    outputs = [made[value.name] for value in results]
    graph = ir.Graph(
        inputs,
        outputs,
        nodes=nodes,
        initializers=list(stored.values()),
        opset_imports={"": 21, native.DOMAIN: 1},
        name="g",
    )
    model: onnx.ModelProto = ir.to_proto(ir.Model(graph, ir_version=10))
    return model


def _run(model: onnx.ModelProto, isa: str, threads: int, given: dict[str, Array]) -> list[Array]:
    made = opened(model, isa, threads)
    wanted = {value.name for value in made.get_inputs()}
    found: list[Array] = made.run(None, {k: v for k, v in given.items() if k in wanted})
    return found


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    """Two to six linears of which each can read the one before."""
    acts = draw(st.booleans())
    width = draw(st.sampled_from([32, 64, 128]))
    forms: list[Form] = []
    for index in range(draw(st.integers(2, 6))):
        ways = ["", "rms_norm"] + (["silu", "gelu_tanh"] if width > 32 else [])
        before = draw(st.sampled_from(ways + (["add_rms_norm"] * 3 if width == HIDDEN else [])))
        inputs = width // 2 if before in ("silu", "gelu_tanh") else width
        outputs = draw(st.sampled_from([32, 64, 128]))
        after = draw(st.sampled_from(["", "", "silu", "gelu_tanh"])) if outputs > 32 else ""
        forms.append(
            Form(
                outputs,
                inputs,
                draw(st.sampled_from([8, 16, 32])),
                draw(st.sampled_from([4, 8])),
                draw(st.sampled_from(["float32", "float16"])),
                draw(st.booleans()),
                acts,
                draw(st.booleans()),
                index,
                before,
                after,
            )
        )
        width = outputs // 2 if after else outputs
    return Layer(tuple(forms))


@settings(max_examples=60, deadline=None)
@given(
    layers(), st.sampled_from([1, 2, 3, 16, 64, 65, 130]), st.sampled_from(ISAS), st.sampled_from([1, 2, 5])
)
def test_a_chain_is_its_linears_to_the_bit(layer: Layer, count: int, isa: str, threads: int) -> None:
    joined, given = layer.model(joined=True), layer.given(count)
    assert any(node.op_type == LINEARS for node in joined.graph.node)
    wanted = _run(layer.model(joined=False), isa, threads, given)
    for found, one in zip(_run(joined, isa, threads, given), wanted, strict=True):
        assert found.shape == one.shape
        np.testing.assert_array_equal(found, one)


@settings(max_examples=20, deadline=None)
@given(layers())
def test_separate_undoes_chain(layer: Layer) -> None:
    joined, alone = layer.model(joined=True), layer.model(joined=False)
    separate(joined)
    assert [_said(node) for node in joined.graph.node] == [_said(node) for node in alone.graph.node]


def _said(node: onnx.NodeProto) -> tuple[Any, ...]:
    attributes = sorted((a.name, a.SerializeToString()) for a in node.attribute)
    return node.name, node.op_type, list(node.input), list(node.output), attributes


def _llama(layers: int = 1) -> Layer:
    """o, gate_up, down and the next qkv."""
    one = (
        Form(HIDDEN, HIDDEN, 32, seed=1),
        Form(256, HIDDEN, 32, seed=2, before="add_rms_norm", after="silu"),
        Form(HIDDEN, 128, 32, seed=3),
        Form(HIDDEN, HIDDEN, 32, seed=4, before="add_rms_norm"),
    )
    return Layer(one * layers)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 7, 64])
def test_threads_that_come_late_change_nothing(count: int, threads: int) -> None:
    """Many runs, in which threads begin, wait and help each other in ever other ways."""
    layer = _llama()
    given = layer.given(count)
    wanted = _run(layer.model(joined=False), "", 1, given)
    made = opened(layer.model(joined=True), threads=threads, spinning=False)
    for _ in range(300):
        for found, one in zip(made.run(None, given), wanted, strict=True):
            np.testing.assert_array_equal(found, one)


def test_a_layer_is_one_operator_and_no_chain_is_longer_than_most() -> None:
    counts = [
        [int(a.i) for a in node.attribute if a.name == "linears"]
        for node in _llama(3).model(joined=True).graph.node
    ]
    assert counts == [[MOST]] * 3


def test_what_others_read_stays() -> None:
    """A product or a sum that is a result, or that something between the linears reads, ends a chain."""
    import onnx_ir as ir

    layer = _llama()
    nodes, _, results = layer.nodes()
    down = nodes[2].outputs[0]
    assert [n.op_type for n in chain(nodes, [*results, down])] == [LINEARS, LINEAR], "a product"

    nodes, _, results = layer.nodes()
    total = nodes[1].outputs[1]
    assert [n.op_type for n in chain(nodes, [*results, total])] == [LINEARS, LINEAR], "a sum but the last"

    flat = Layer((replace(layer.forms[0], flatten=True), *layer.forms[1:]))
    assert [n.op_type for n in chain(*flat.nodes()[::2])] == [LINEAR, LINEARS], "rows of another shape"

    nodes, _, results = layer.nodes()
    twice = ir.node("Add", [nodes[0].outputs[0], nodes[0].outputs[0]])
    kinds = [n.op_type for n in chain([nodes[0], twice, *nodes[1:]], [*results, twice.outputs[0]])]
    assert kinds == [LINEAR, "Add", LINEARS], "another reader"

    nodes, _, results = layer.nodes()
    between = ir.node("Neg", [nodes[1].outputs[1]])
    nodes[3].replace_input_with(0, between.outputs[0])
    order = [*nodes[:2], between, *nodes[2:]]
    assert [n.op_type for n in chain(order, results[:1])] == [LINEARS, "Neg", LINEARS], (
        "what is made meanwhile"
    )


def test_no_rows_and_batches() -> None:
    layer = _llama()
    model = layer.model(joined=True)
    given = layer.given(6)
    y, total = _run(model, "", 2, given)
    shaped = {name: value.reshape(2, 3, -1) for name, value in given.items()}
    for value in model.graph.input:
        value.type.tensor_type.ClearField("shape")
    found, sums = _run(model, "", 2, shaped)
    assert found.shape == (2, 3, HIDDEN)
    np.testing.assert_array_equal(found.reshape(y.shape), y)
    np.testing.assert_array_equal(sums.reshape(total.shape), total)
    flat = Layer((*layer.forms[:-1], replace(layer.forms[-1], flatten=True))).model(joined=True)
    for value in flat.graph.input:
        value.type.tensor_type.ClearField("shape")
    rows_alone, sums = _run(flat, "", 2, shaped)
    np.testing.assert_array_equal(rows_alone, y)
    assert sums.shape == (2, 3, HIDDEN), "a sum is of x's shape"
    empty = _run(model, "", 2, {name: value[:0] for name, value in given.items()})
    assert [value.shape for value in empty] == [(0, HIDDEN), (0, HIDDEN)]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("linears", 5, "2 to 4 linears"),
        ("x_from_2", "y3", "linear 2 can't read y3"),
        ("x_from_1", "total0", "linear 0 has no total"),
        ("residual_from_2", "input", "a residual comes with prepare = rms_norm"),
        ("x_from_2", "total1", "linear 2 reads rows of another width"),
    ],
)
def test_mistakes_of_a_graph_are_named(name: str, value: Any, message: str) -> None:
    model = _llama().model(joined=True)
    (node,) = model.graph.node
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])
    with pytest.raises(Exception, match=message):
        _run(model, "", 1, _llama().given(1))


def test_rows_that_differ_in_number_are_named() -> None:
    given = _llama().given(4)
    with pytest.raises(Exception, match="as many rows as the first"):
        _run(_llama().model(joined=True), "", 1, {**given, "stream": given["stream"][:3]})
