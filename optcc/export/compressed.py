"""compressed-tensors: which of optcc's schemes its formats hold, and their tensors. vLLM and transformers read it.

Source: compressed-tensors 0.20, `quantization/quant_args.py`, `quantization/quant_scheme.py` (presets) and
`compressors/`. The reader's side is `optcc.frontend.quantized.compressed`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from optcc.export.stored import Rounding, StoredWeight
from optcc.export.tensors import OutTensor
from optcc.frontend.quantized.words import field_words, signed, to_words
from optcc.ir.formats import SCALES, find_format
from optcc.ir.module import Module
from optcc.recipe.schemes import ActivationFormat, WeightFormat

NAME = "compressed-tensors"
_FLOAT_SCALES = ("float32", "float16", "bfloat16")
_BITS = {"int8": 8, "int4": 4, "int3": 3, "ternary": 2, "e4m3": 8, "e2m1": 4}
_INTEGERS = ("int8", "int4", "int3", "ternary")
Json = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """How one scheme is spelled.

    Attributes:
        format: compressed-tensors' format.
        weights, activations: its QuantizationArgs.
    """

    format: str
    weights: Json
    activations: Json | None


def spell(weight: StoredWeight) -> Shape | str:
    """How a weight's scheme is spelled, or why it can't be."""
    form, rounding = weight.form, weight.rounding
    activations = _activations(rounding.form) if rounding else None
    if isinstance(activations, str):
        return activations
    found = _integers(form, activations) if form.type in _INTEGERS else _floats(form, activations)
    return found if isinstance(found, str) else Shape(found[0], found[1], activations)


def _args(form: WeightFormat, kind: str, **extra: Any) -> Json:
    args: Json = {"num_bits": _BITS[form.type], "type": kind, "symmetric": form.symmetric, "dynamic": False}
    if form.rows > 1:
        args |= {"strategy": "block", "block_structure": [form.rows, form.group]}
    elif form.group:
        args |= {"strategy": "group", "group_size": form.group}
    else:
        args |= {"strategy": "tensor" if form.rows == 0 else "channel"}
    return args | extra


def _integers(form: WeightFormat, activations: Json | None) -> tuple[str, Json] | str:
    if form.scale not in _FLOAT_SCALES:
        return f"integers with {form.scale} scales; float scales are near"
    if form.rows != 1:
        return "integers whose rows share scales; scales of each row are near"
    if activations and activations["type"] != "int":
        return "integer weights with float activations; the same weights without rounded activations are near"
    return "int-quantized" if form.type == "int8" and activations else "pack-quantized", _args(form, "int")


def _floats(form: WeightFormat, activations: Json | None) -> tuple[str, Json] | str:
    if activations and activations["type"] != "float":
        return "float weights with integer activations; fp8 activations are near"
    if form.rows > 1 and not form.group:
        return f"{form.rows} whole rows with one scale; blocks of rows and columns are near"
    if form.type == "e4m3" and form.scale in _FLOAT_SCALES:
        return "float-quantized", _args(form, "float")
    if form.type == "e4m3" and (form.scale, form.group, form.rows) == ("e8m0", 32, 1):
        return "mxfp8-quantized", _args(form, "float", scale_dtype="torch.uint8", zp_dtype="torch.uint8")
    if form.type == "e2m1" and (form.scale, form.group, form.rows) == ("e8m0", 32, 1):
        return "mxfp4-pack-quantized", _args(form, "float", scale_dtype="torch.uint8", zp_dtype="torch.uint8")
    if form.type == "e2m1" and (form.scale, form.group, form.rows) == ("e4m3", 16, 1):
        e4m3 = "torch.float8_e4m3fn"
        args = _args(form, "float", scale_dtype=e4m3, zp_dtype=e4m3)
        return "nvfp4-pack-quantized", args | {"strategy": "tensor_group"}
    return f"{form.type} in groups of {form.group} with {form.scale} scales; nvfp4, mxfp4 and mxfp8 are near"


def _activations(form: ActivationFormat) -> Json | str:
    """QuantizationArgs of a linear's input, or why there are none."""
    kind = "int" if form.type == "int8" else "float"
    args: Json = {"num_bits": _BITS[form.type], "type": kind, "symmetric": True, "dynamic": True}
    if form.static:
        return args | {"strategy": "tensor", "dynamic": False}
    if form.type == "e2m1":
        if (form.group, form.scale) == (16, "e4m3"):
            return args | {"strategy": "tensor_group", "group_size": 16, "dynamic": "local"}
        if (form.group, form.scale) == (32, "e8m0"):
            return args | {"strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"}
        return "e2m1 activations; groups of 16 with e4m3 scales are near"
    if form.scale == "e8m0" and form.group == 32 and form.type == "e4m3":
        return args | {"strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"}
    if form.scale != "float32":
        return f"activations with {form.scale} scales; float32 scales are near"
    return args | ({"strategy": "group", "group_size": form.group} if form.group else {"strategy": "token"})


def tensors(module: Module, weight: StoredWeight, shape: Shape) -> list[OutTensor]:
    """The checkpoint's tensors of one weight."""
    form, rows, width = weight.form, weight.rows, weight.width
    name = f"{weight.module}.weight"
    blocks = -(-rows // form.rows) if form.rows else 1
    groups = width // form.group if form.group else 1
    scale_shape = (1,) if form.rows == 0 else (blocks, groups)
    dtype = torch.uint8 if form.scale == "e8m0" else SCALES[form.scale].dtype
    out = [OutTensor(f"{name}_scale", dtype, scale_shape, partial(_scale, module, weight, scale_shape))]
    packs = shape.format.endswith("pack-quantized")
    words = packs and form.type in _INTEGERS
    if words:
        count = -(-width * _BITS[form.type] // 32)
        out.append(OutTensor(f"{name}_packed", torch.int32, (rows, count), partial(_words, module, weight)))
        out.append(OutTensor(f"{name}_shape", torch.int64, (2,), lambda: torch.tensor([rows, width])))
    else:
        stored = find_format(form.type)
        shape_ = (rows, stored.packed_width(width))
        title = f"{name}_packed" if packs else name
        out.append(OutTensor(title, stored.storage, shape_, partial(_part, module, weight, "packed")))
    if not form.symmetric:
        packed_rows = -(-rows * _BITS[form.type] // 32) if words else rows
        kind = torch.int32 if words else torch.int8
        read = partial(_zero, module, weight, words)
        out.append(OutTensor(f"{name}_zero_point", kind, (packed_rows, groups), read))
    if form.two_level:
        read = partial(_reciprocal, module, f"{weight.held}.tensor_scale")
        out.append(OutTensor(f"{name}_global_scale", torch.float32, (1,), read))
    return out + _input_tensors(module, weight)


def _input_tensors(module: Module, weight: StoredWeight) -> list[OutTensor]:
    rounding = weight.rounding
    if rounding is None or rounding.scale is None:
        return []
    if rounding.form.static:
        read = partial(_whole, module, rounding.scale)
        return [OutTensor(f"{weight.module}.input_scale", torch.float32, (1,), read)]
    read = partial(_reciprocal, module, rounding.scale)
    return [OutTensor(f"{weight.module}.input_global_scale", torch.float32, (1,), read)]


def _whole(module: Module, name: str) -> Tensor:
    return module.weights[name].float().reshape(1)


def _reciprocal(module: Module, name: str) -> Tensor:
    """compressed-tensors divides by a tensor's scale, optcc multiplies by its own."""
    return module.weights[name].float().reshape(1).reciprocal()


def inexact_scale(module: Module, weight: StoredWeight) -> str | None:
    """A two-level scale of a weight or its input that would not come back to the bit from its reciprocal, by name."""
    names = [f"{weight.held}.tensor_scale"] if weight.form.two_level else []
    if weight.rounding and weight.rounding.scale and not weight.rounding.form.static:
        names.append(weight.rounding.scale)
    scales = {name: _whole(module, name) for name in names}
    return next((n for n, s in scales.items() if not torch.equal(s.reciprocal().reciprocal(), s)), None)


def _part(module: Module, weight: StoredWeight, name: str) -> Tensor:
    part = weight.part(module, name)
    assert part is not None
    return part


def _scale(module: Module, weight: StoredWeight, shape: tuple[int, ...]) -> Tensor:
    scale = _part(module, weight, "scale").reshape(shape)
    return scale.view(torch.uint8) if weight.form.scale == "e8m0" else scale


def _words(module: Module, weight: StoredWeight) -> Tensor:
    packed = _part(module, weight, "packed")
    return to_words(signed(packed) if weight.form.type == "int8" else packed)


def _zero(module: Module, weight: StoredWeight, words: bool) -> Tensor:
    """Zero points int8 [O, groups]; in words, they lie along O."""
    zero, bits = _part(module, weight, "zero"), _BITS[weight.form.type]
    if not words:
        return zero
    fields = (zero.to(torch.int16) + (1 << (bits - 1))).to(torch.uint8)
    return field_words(fields.T.contiguous(), bits).T.contiguous()


def configuration(spelled: Mapping[str, Shape], ignore: Sequence[str], tables: Collection[str] = ()) -> Json:
    """`quantization_config`: one config group for every scheme.

    Args:
        spelled: layer name -> how its weight is spelled.
        ignore: names of linears that are not quantized.
        tables: names of layers that are look-ups, which the class Linear doesn't mean.
    """
    groups: list[tuple[Shape, list[str]]] = []
    for name, shape in spelled.items():
        known = next((names for other, names in groups if other == shape), None)
        if known is None:
            groups.append((shape, [name]))
        else:
            known.append(name)
    formats = {shape.format for shape, _ in groups}
    config: Json = {}
    for index, (shape, names) in enumerate(groups):
        config[f"group_{index}"] = {
            "targets": ["Linear"] if len(groups) == 1 and not set(tables) & set(names) else names,
            "weights": shape.weights,
            "input_activations": shape.activations,
            "output_activations": None,
            "format": shape.format,
        }
    return {
        "quant_method": NAME,
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": config,
        "ignore": list(ignore),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


__all__ = ["NAME", "Rounding", "Shape", "configuration", "inexact_scale", "spell", "tensors"]
