"""Put packed weights into a graph: explicit `dequantize(packed, scale)` where the weight was read.

Every quantization algorithm ends here; fusions and backends only ever see this one form.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx

from optcc.ir.builder import Builder
from optcc.ir.module import Module
from optcc.ir.ops.quantized import PARTS
from optcc.ir.rounding import round_dynamic, round_static
from optcc.quant.rounding import PackedWeight
from optcc.quant.select import Selected
from optcc.recipe.schemes import ActivationFormat, WeightFormat

_OPS = torch.ops.optcc


def attach_weight(module: Module, selected: Selected, packed: PackedWeight, form: WeightFormat) -> None:
    """Replace every read of a weight by one dequantize of its packed form; the weight itself goes away.

    A tied embedding and head read the same dequantize, so the packed tensor is stored once.
    """
    users = [*selected.linears, *selected.embeddings]
    weight = module.weight_node(users[0].graph, selected.name)
    order = {node: i for i, node in enumerate(weight.graph.nodes)}
    build = Builder(module, min(users, key=order.__getitem__))
    dtype = weight.meta["val"].dtype

    stored = {p: build.new_weight(f"{selected.name}.{p}", t) for p, t in packed.tensors().items()}
    read = build.call(
        _OPS.dequantize.default,
        *(stored.get(part) for part in PARTS),
        form.type,
        form.group,
        form.rows,
        dtype,
    )
    weight.replace_all_uses_with(read)
    weight.graph.erase_node(weight)
    module.weights.remove(selected.name)


def attach_activations(module: Module, linears: list[fx.Node], form: ActivationFormat) -> None:
    """Quantize what the linears read: `linear(dequantize(quantize_activation(x)), w)`.

    Linears that read the same value share one quantization.
    """
    made: dict[fx.Node, fx.Node] = {}
    for linear in linears:
        x = linear.args[0]
        assert isinstance(x, fx.Node)
        if x not in made:
            build = Builder(module, linear)
            made[x] = round_dynamic(build, x, form.type, form.group, form.scale)
        linear.replace_input_with(x, made[x])


def attach_static(module: Module, scales: Mapping[fx.Node, Tensor], form: ActivationFormat) -> None:
    """Quantize what linears read with scales found by calibration: `linear(dequantize(quantize_static(x)), w)`.

    Linears that read the same value with the same scale share one quantization. Scales are stored as
    `<weight>.input_scale`, after the first linear's weight.

    Args:
        module: canonical, or with packed weights attached.
        scales: for every linear, in order of the graph, float32 [1]: what a level of its input stands for.
        form: static, one scale for the whole tensor.
    """
    made: dict[fx.Node, list[tuple[Tensor, fx.Node]]] = {}
    for linear, scale in scales.items():
        x, weight = linear.all_input_nodes[:2]
        known = made.setdefault(x, [])
        back = next((node for other, node in known if torch.equal(other, scale)), None)
        if back is None:
            build = Builder(module, linear)
            stored = build.new_weight(f"{weight.target}.input_scale", scale)
            back = round_static(build, x, stored, None, form.type)
            known.append((scale, back))
        linear.replace_input_with(x, back)
