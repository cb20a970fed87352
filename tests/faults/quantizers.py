"""Faults of quantizers: what is stored is not what should be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from optcc.ir.formats import find_format
from optcc.ir.module import Module
from optcc.quant.rounding import PackedWeight, round_to_nearest, unpacked
from optcc.quant.select import Selected
from optcc.recipe.schemes import WeightFormat
from tests.faults.fault import QUANTIZED, Fault
from tests.faults.plant import EditPacked, Planting, change_weight, ops, set_operand

Change = Callable[[PackedWeight, Tensor, WeightFormat], PackedWeight]
ONE = "layers.1.mlp.down_proj"


def _everywhere(change: Change) -> Callable[[Planting], None]:
    return lambda p: p.packed(lambda packed, weight, form, selected: change(packed, weight, form))


def _only(name: str, change: Change) -> Callable[[Planting], None]:
    """In the weights whose name has `name` in it."""

    def edit(packed: PackedWeight, weight: Tensor, form: WeightFormat, selected: Selected) -> PackedWeight:
        return change(packed, weight, form) if name in selected.name else packed

    return lambda p: p.packed(edit)


def _scaled(factor: float) -> Change:
    return lambda packed, weight, form: dataclasses.replace(packed, scale=packed.scale * factor)


def _no_scale(packed: PackedWeight, weight: Tensor, form: WeightFormat) -> PackedWeight:
    return dataclasses.replace(packed, scale=torch.full_like(packed.scale, float(packed.scale.mean())))


def _neighbour(packed: PackedWeight, weight: Tensor, form: WeightFormat) -> PackedWeight:
    return dataclasses.replace(packed, scale=packed.scale.roll(1, -1))


def _row_above(packed: PackedWeight, weight: Tensor, form: WeightFormat) -> PackedWeight:
    return dataclasses.replace(packed, scale=packed.scale.roll(1, 0))


def _transposed(packed: PackedWeight, weight: Tensor, form: WeightFormat) -> PackedWeight:
    return dataclasses.replace(packed, scale=packed.scale.T.contiguous().view_as(packed.scale))


def _half_scale(packed: PackedWeight, weight: Tensor, form: WeightFormat) -> PackedWeight:
    """Three bits of mantissa, as float8 would leave."""
    return dataclasses.replace(packed, scale=packed.scale.to(torch.float8_e4m3fn).to(packed.scale.dtype))


def _levels(change: Callable[[Tensor], Tensor]) -> Change:
    def edit(packed: PackedWeight, weight: Tensor, form: WeightFormat) -> PackedWeight:
        number = find_format(form.type)
        return dataclasses.replace(packed, packed=number.pack(change(number.unpack(packed.packed))))

    return edit


def _nibbles(packed: PackedWeight, weight: Tensor, form: WeightFormat) -> PackedWeight:
    if form.type != "int4":
        return packed
    raw = packed.packed.view(torch.uint8)
    return dataclasses.replace(packed, packed=((raw << 4) | (raw >> 4)).view(packed.packed.dtype))


def _truncated(packed: PackedWeight, weight: Tensor, form: WeightFormat) -> PackedWeight:
    number = find_format(form.type)
    steps = packed.scale.repeat_interleave(form.group or weight.shape[1], -1)
    levels = (weight.float() / steps).trunc().clamp(number.lowest, number.highest)
    return dataclasses.replace(packed, packed=number.pack(levels))


def _clipped(packed: PackedWeight, weight: Tensor, form: WeightFormat) -> PackedWeight:
    edge = 1.5 * float(weight.std())
    return round_to_nearest(weight.clamp(-edge, edge), form)


def _last_rows(packed: PackedWeight, weight: Tensor, form: WeightFormat) -> PackedWeight:
    values = packed.packed.clone()
    values[-6:] = 0
    return dataclasses.replace(packed, packed=values)


def _last_group(packed: PackedWeight, weight: Tensor, form: WeightFormat) -> PackedWeight:
    scale = packed.scale.clone()
    scale[:, -1] = 0
    return dataclasses.replace(packed, scale=scale)


def _one_row(packed: PackedWeight, weight: Tensor, form: WeightFormat) -> PackedWeight:
    values = packed.packed.clone()
    values[7] = values[8]
    return dataclasses.replace(packed, packed=values)


def _coarser(packed: PackedWeight, weight: Tensor, form: WeightFormat) -> PackedWeight:
    """Half the bits are used."""
    number = find_format(form.type)
    return dataclasses.replace(packed, packed=number.pack((number.unpack(packed.packed) / 4).round() * 4))


def _negated(packed: PackedWeight, weight: Tensor, form: WeightFormat) -> PackedWeight:
    return round_to_nearest(-weight, form)


def _zero_point(p: Planting) -> None:
    def edit(packed: PackedWeight, weight: Tensor, form: WeightFormat, selected: Selected) -> PackedWeight:
        return packed if packed.zero is None else dataclasses.replace(packed, zero=packed.zero + 1)

    p.packed(edit)


def _keeps_floats(p: Planting) -> None:
    """A quantizer that says it ran and stores what it was given."""
    from optcc.passes.quantize import linear

    def run(self: Any, module: Module, ctx: Any) -> bool:
        selected = self.select(module, ctx.base)
        self.note_schemes(module, selected, self.load(ctx.base))
        return bool(selected)

    p.patch.setattr(linear.QuantizeLinear, "run", run)


def _skips_one(p: Planting) -> None:
    """A quantizer that forgets the last weight of its list."""
    from optcc.passes.quantize import linear

    attach = linear.attach_weight

    def wrong(module: Module, selected: Selected, *rest: Any) -> None:
        if "layers.2.mlp.down_proj" not in selected.name:
            attach(module, selected, *rest)

    p.patch.setattr(linear, "attach_weight", wrong)


def _activations(p: Planting, **operands: object) -> None:
    def edit(module: Module) -> None:
        for node in ops(module, "optcc.quantized_linear.default"):
            for name, value in operands.items():
                set_operand(node, name, value)

    p.after("fuse.dequant-linear", edit)


def _per_token(p: Planting) -> None:
    _activations(p, act_group=0)


def _unrounded(p: Planting) -> None:
    _activations(p, act_format="")


def _swapped_layers(p: Planting) -> None:
    """Two layers' weights of one shape exchanged."""

    def edit(module: Module) -> None:
        for part in ("packed", "scale"):
            a, b = (f"model.layers.{i}.mlp.down_proj.weight.{part}" for i in (0, 2))
            first, second = module.weights[a].clone(), module.weights[b].clone()
            change_weight(module, a, lambda _, value=second: value)
            change_weight(module, b, lambda _, value=first: value)

    p.after("fuse.dequant-linear", edit)


def _other_layer(packed_from: str = "model.layers.0.self_attn.o_proj.weight") -> EditPacked:
    held: dict[str, Tensor] = {}

    def edit(packed: PackedWeight, weight: Tensor, form: WeightFormat, selected: Selected) -> PackedWeight:
        if selected.name == packed_from:
            held["weight"] = weight.clone()
        if selected.name == packed_from.replace("layers.0", "layers.1") and "weight" in held:
            return round_to_nearest(held["weight"], form)
        return packed

    return edit


def _twice(packed: PackedWeight, weight: Tensor, form: WeightFormat) -> PackedWeight:
    """Rounded to a coarser grid first."""
    once = unpacked(packed, form)
    coarse = dataclasses.replace(form, type="int4", group=0)
    return round_to_nearest(unpacked(round_to_nearest(once, coarse), coarse), form)


def _one_side(p: Planting) -> None:
    """A tied table whose embedding reads rows of another scale than the head."""

    def edit(module: Module) -> None:
        for node in ops(module, "optcc.quantized_embedding.default"):
            scale = module.weights[str(node.args[2].target)]  # type: ignore[union-attr]
            from optcc.ir.builder import Builder

            other = Builder(module, node).new_weight("model.embed_tokens.weight.own_scale", scale * 1.25)
            set_operand(node, "scale", other)

    p.after("fuse.dequant-linear", edit)


def _gptq_feedback(p: Planting) -> None:
    """GPTQ that carries errors on with the wrong sign."""
    from optcc.quant import gptq

    before = gptq.factorize

    def wrong(*args: Any, **kwargs: Any) -> Any:
        made = before(*args, **kwargs)
        inverse = made.inverse
        return dataclasses.replace(made, inverse=2 * torch.diag(inverse.diagonal()) - inverse)

    p.patch.setattr("optcc.passes.quantize.gptq.factorize", wrong)


FAULTS = (
    Fault("scale dropped, one layer", "quantizer", _only(ONE, _no_scale), recipes=QUANTIZED),
    Fault("scale dropped", "quantizer", _everywhere(_no_scale), recipes=QUANTIZED),
    Fault("scale doubled", "quantizer", _everywhere(_scaled(2.0)), recipes=QUANTIZED),
    Fault("scale doubled, one layer", "quantizer", _only(ONE, _scaled(2.0)), recipes=QUANTIZED),
    Fault("scale halved, one layer", "quantizer", _only("layers.2.self_attn.k_proj", _scaled(0.5)), recipes=QUANTIZED),
    Fault("scale 127/128 off", "quantizer", _everywhere(_scaled(127 / 121)), recipes=QUANTIZED),
    Fault("scale of the neighbouring group", "quantizer", _only(ONE, _neighbour), recipes=QUANTIZED),
    Fault("scale of the row above", "quantizer", _only(ONE, _row_above), recipes=QUANTIZED),
    Fault("group axis transposed", "quantizer", _everywhere(_transposed), recipes=QUANTIZED),
    Fault("scale stored in three bits", "quantizer", _everywhere(_half_scale), recipes=QUANTIZED),
    Fault("zero point off by one", "quantizer", _zero_point, recipes=("asym",)),
    Fault("nibbles swapped", "quantizer", _everywhere(_nibbles), recipes=("int4",)),
    Fault("sign of levels lost", "quantizer", _only(ONE, _levels(torch.abs)), recipes=QUANTIZED),
    Fault("truncated, not rounded", "quantizer", _everywhere(_truncated), recipes=QUANTIZED),
    Fault("truncated, one layer", "quantizer", _only(ONE, _truncated), recipes=QUANTIZED),
    Fault("clipped at 1.5 sigma", "quantizer", _everywhere(_clipped), recipes=QUANTIZED),
    Fault("two bits lost", "quantizer", _only("layers.0.self_attn.v_proj", _coarser), recipes=QUANTIZED),
    Fault("levels off by one", "quantizer", _only(ONE, _levels(lambda x: (x + 1).clamp(max=7))), recipes=("int4",)),
    Fault("weight negated", "quantizer", _only("layers.0.mlp.gate_proj", _negated), recipes=QUANTIZED),
    Fault("last rows not written", "quantizer", _only(ONE, _last_rows), recipes=QUANTIZED),
    Fault("last group not written", "quantizer", _only(ONE, _last_group), recipes=QUANTIZED),
    Fault("one row of levels is its neighbour's", "quantizer", _only(ONE, _one_row), recipes=QUANTIZED),
    Fault("another layer's weight", "quantizer", lambda p: p.packed(_other_layer()), recipes=QUANTIZED),
    Fault("two layers exchanged", "weights", _swapped_layers, recipes=QUANTIZED),
    Fault("no-op quantizer", "quantizer", _keeps_floats, recipes=QUANTIZED),
    Fault("one weight skipped", "quantizer", _skips_one, recipes=("int8",)),
    Fault("tied table quantized twice", "quantizer", _only("embed_tokens", _twice), "qwen3", recipes=QUANTIZED),
    Fault("tied table, one side updated", "quantizer", _one_side, "qwen3", recipes=QUANTIZED),
    Fault("activation scale per token, not per group", "quantizer", _per_token, recipes=QUANTIZED),
    Fault("activations not quantized", "quantizer", _unrounded, recipes=QUANTIZED),
    Fault("GPTQ carries errors with the wrong sign", "quantizer", _gptq_feedback, recipes=("int4-gptq",)),
)  # fmt: skip
