"""What a quantized checkpoint says about the inputs of its linears, as operators in the graph."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx

from optcc.errors import UnsupportedCheckpoint
from optcc.frontend.program import PackedSource, WeightSource
from optcc.ir.builder import Builder
from optcc.ir.module import Module
from optcc.ir.rounding import round_dynamic, round_static

_OPS = torch.ops.optcc
_ATEN = torch.ops.aten


def round_inputs(module: Module, weights: Mapping[str, WeightSource]) -> None:
    """Put channel order, factor and rounding before the linears of packed weights, and write down what is packed.

    Linears that read the same value alike share the operators. `module.attrs["checkpoint"]` gets every packed weight
    with what it is stored as: the ledger's intents. `module.attrs["schemes"]` says the same, as after a pass.

    Raises:
        UnsupportedCheckpoint: something that isn't a linear reads a weight whose channels are reordered.
    """
    packed = {name: source.packed for name, source in weights.items() if source.packed is not None}
    if not packed:
        return
    labels = {name: _label(form) for name, form in sorted(packed.items())}
    module.attrs["checkpoint"] = {**labels}
    module.attrs["schemes"] = {**labels}
    by_tensor = {f"{name}.packed": name for name in packed}
    made: dict[tuple[object, ...], fx.Node] = {}
    shared: dict[str, str] = {}
    for node in module.find(_OPS.dequantize.default):
        name = by_tensor.get(str(getattr(node.args[0], "target", "")))
        if name is None:
            continue
        form = packed[name]
        for user in list(node.users):
            if user.target is _ATEN.linear.default:
                _attach(module, user, name, form, made, shared)
            elif form.order or form.factor:
                raise UnsupportedCheckpoint(
                    f"{user.target} reads {name}, whose channels are reordered or scaled", where=name
                )


def _label(form: PackedSource) -> str:
    """What a weight is stored as, in words: `checkpoint-int4-g128`."""
    size = "tensor" if form.rows == 0 else f"b{form.group}" if form.rows > 1 else f"g{form.group}"
    zero = "" if form.zero is None else "-asym"
    return f"checkpoint-{form.format}-{'channel' if size == 'g0' else size}{zero}"


def _attach(
    module: Module,
    linear: fx.Node,
    name: str,
    form: PackedSource,
    made: dict[tuple[object, ...], fx.Node],
    shared: dict[str, str],
) -> None:
    """The operators of one linear, or those that another linear has got for the same input."""
    x = linear.args[0]
    assert isinstance(x, fx.Node)
    names = {part: _shared(module, f"{name}.{part}", part, form, shared) for part in _inputs(form)}
    key = (x, form.activation, *sorted(names.items()))
    if key not in made:
        build = Builder(module, linear)
        value = x
        if "factor" in names:
            value = build.call(_ATEN.mul.Tensor, value, build.weight(names["factor"]))
        if "order" in names:
            value = build.call(_ATEN.index_select.default, value, -1, build.weight(names["order"]))
        made[key] = _rounded(build, value, form, names.get("input_scale"))
    if made[key] is not x:
        linear.replace_input_with(x, made[key])


def _inputs(form: PackedSource) -> list[str]:
    return [part for part in ("factor", "order", "input_scale") if getattr(form, part) is not None]


def _shared(module: Module, name: str, part: str, form: PackedSource, shared: dict[str, str]) -> str:
    """One name for tensors of equal content: query, key and value often have the same order."""
    source: WeightSource = getattr(form, part)
    content = f"{part} {source.stored().numpy().tobytes().hex()}"
    return shared.setdefault(content, name)


def _rounded(build: Builder, x: fx.Node, form: PackedSource, scale: str | None) -> fx.Node:
    """X rounded as the checkpoint says, and back in its own type."""
    rule, step = form.activation, None if scale is None else build.weight(scale)
    if rule is None:
        return x
    if rule.static:
        assert step is not None
        return round_static(build, x, step, None, rule.format)
    return round_dynamic(build, x, rule.format, rule.group, rule.scale, step)
