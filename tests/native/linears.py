"""A graph of one QuantizedLinear or QuantizedEmbedding, and what the interpreter makes of the same weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from optcc.backends.onnxruntime import native
from optcc.backends.onnxruntime.native.packing import Canonical, Packing
from optcc.ir.ops.activation import gated_activation
from optcc.ir.ops.norm import add_rms_norm, rms_norm
from optcc.ir.ops.quantized import quantized_embedding, quantized_linear
from optcc.quant.rounding import PackedWeight, round_to_nearest
from optcc.recipe.schemes import WeightFormat

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Form:
    """One linear; group 0 is a scale per output. `activations` are int8 in the same groups, or stay float32."""

    outputs: int
    inputs: int
    group: int
    bits: int = 4
    scale: str = "float32"
    symmetric: bool = True
    activations: bool = True
    bias: bool = False
    seed: int = 0
    before: str = ""
    """What is done to a row first: rms_norm, add_rms_norm, silu, gelu_tanh or nothing."""
    after: str = ""
    """What is done to a row of results: silu, gelu_tanh or nothing."""
    flatten: bool = False
    """Whether results lose what rows are grouped by."""

    @property
    def packing(self) -> Packing:
        """Of its table."""
        group, half = self.group or self.inputs, self.scale == "float16"
        return Packing(self.outputs, self.inputs, group, self.bits, half, not self.symmetric)


@cache
def weights(form: Form) -> tuple[PackedWeight, torch.Tensor | None]:
    """The table, about half of whose scales are negative where they may be, and the bias."""
    drawn = torch.Generator().manual_seed(form.seed)
    w = torch.randn(form.outputs, form.inputs, generator=drawn)
    made = WeightFormat(f"int{form.bits}", form.group, scale=form.scale, symmetric=form.symmetric)
    packed = round_to_nearest(w, made, search=2, signed=form.symmetric)
    return packed, torch.randn(form.outputs, generator=drawn) if form.bias else None


@cache
def table(form: Form) -> Array:
    """As the operators read it."""
    packed, _ = weights(form)
    zero = None if packed.zero is None else packed.zero.numpy()
    return form.packing.pack(Canonical(packed.packed.numpy(), packed.scale.numpy(), zero))


EPSILON = 1e-5


@cache
def norm_weight(form: Form) -> Array:
    """Of the norm before the linear."""
    return np.random.default_rng(form.seed).normal(1, 0.2, form.inputs).astype(np.float32)


def prepared(form: Form, x: Array, residual: Array | None = None) -> tuple[Array, Array | None]:
    """The interpreter's rows that are multiplied, and the sum where there is a residual."""
    given, weight = torch.from_numpy(x), torch.from_numpy(norm_weight(form))
    if residual is not None:
        normed, total = add_rms_norm(given, torch.from_numpy(residual), weight, EPSILON)
        return normed.numpy(), total.numpy()
    if form.before == "rms_norm":
        return rms_norm(given, weight, EPSILON).numpy(), None
    return (gated_activation(given, form.before).numpy() if form.before else x), None


def expected(form: Form, x: Array) -> Array:
    """The interpreter's product."""
    packed, bias = weights(form)
    act = ("int8", form.group) if form.activations else ("", 0)
    layout = f"int{form.bits}", form.group, 1, *act, "float32"
    stored = packed.packed, packed.scale, packed.zero, packed.tensor_scale
    made = quantized_linear(torch.from_numpy(x), *stored, bias, *layout)
    found: Array = (gated_activation(made, form.after) if form.after else made).numpy()
    return found


def expected_rows(form: Form, ids: Array) -> Array:
    """The interpreter's rows."""
    packed, _ = weights(form)
    stored = packed.packed, packed.scale, packed.zero, packed.tensor_scale
    layout = f"int{form.bits}", form.group, torch.float32
    found: Array = quantized_embedding(torch.from_numpy(ids), *stored, *layout).numpy()
    return found


@cache
def session(form: Form, isa: str = "", threads: int = 1, *, look_up: bool = False) -> Any:
    """The graph, opened. An empty `isa` is the best one."""
    from onnx import TensorProto, helper

    _, bias = weights(form)
    parts = {"table": table(form)} | ({} if bias is None or look_up else {"bias": bias.numpy()})
    kinds = {"table": TensorProto.UINT8, "bias": TensorProto.FLOAT}
    stored = [helper.make_tensor(n, kinds[n], a.shape, a.tobytes(), raw=True) for n, a in parts.items()]
    attributes = form.packing.attributes()
    if look_up:
        name, first = "QuantizedEmbedding", helper.make_tensor_value_info("x", TensorProto.INT64, None)
    else:
        name, first = "QuantizedLinear", helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
        attributes |= {"quantize_input": int(form.activations), "flatten": int(form.flatten)}
        attributes |= {"activation": form.after} if form.after else {}
    names, results, inputs = ["x", *parts], ["y"], [first]
    if form.before:
        normed = form.before.endswith("rms_norm")
        attributes |= {"prepare": "rms_norm" if normed else form.before, "epsilon": EPSILON}
        names += [] if "bias" in parts else [""]
        if normed:
            values = norm_weight(form)
            stored.append(
                helper.make_tensor("norm", TensorProto.FLOAT, values.shape, values.tobytes(), raw=True)
            )
            names.append("norm")
        if form.before == "add_rms_norm":
            names.append("residual")
            inputs.append(helper.make_tensor_value_info("residual", TensorProto.FLOAT, None))
            results.append("total")
    node = helper.make_node(name, names, results, domain=native.DOMAIN, **attributes)
    last = [helper.make_tensor_value_info(result, TensorProto.FLOAT, None) for result in results]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(native.DOMAIN, 1)]
    graph = helper.make_graph([node], "g", inputs, last, stored)
    return opened(helper.make_model(graph, opset_imports=opsets, ir_version=10), isa, threads)


def opened(model: Any, isa: str = "", threads: int = 1, *, spinning: bool = True) -> Any:
    """A session over an onnx.ModelProto with native operators; without spinning threads wake up late."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    options.register_custom_ops_library(str(native.library()))
    native.choose_isa(isa)
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    finally:
        native.choose_isa("")


def run(made: Any, x: Array) -> Array:
    """One call."""
    found: Array = made.run(None, {"x": x})[0]
    return found


def run_before(made: Any, x: Array, residual: Array | None) -> list[Array]:
    """One call of a linear that prepares its rows: its product, and the sum where there is a residual."""
    given = {"x": x} | ({} if residual is None else {"residual": residual})
    found: list[Array] = made.run(None, given)
    return found


def rows(form: Form, count: int, seed: int = 1) -> Array:
    """float32 [count, K], a few of them much larger and some groups all zero."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, form.inputs)).astype(np.float32)
    x[rng.random(x.shape) < 0.01] *= 30
    x[:: max(1, count // 3), : form.group or form.inputs] = 0
    return x
