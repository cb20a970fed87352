"""nvidia-modelopt's format, where it has one for a scheme: `config.json` and `hf_quant_config.json`.

Source: modelopt 0.47, `torch/export/quant_utils.py` and `convert_hf_config.py`. TensorRT-LLM, vLLM and SGLang read it.
The reader's side is `optcc.frontend.quantized.modelopt`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from optcc.export.stored import StoredWeight
from optcc.export.tensors import OutTensor
from optcc.frontend.quantized.modelopt import ALGORITHMS, Algorithm
from optcc.ir.formats import SCALES, find_format, unpack_fields
from optcc.ir.module import Module

NAME = "modelopt"
Json = dict[str, Any]
# What modelopt writes; NVFP4_AWQ is NVFP4 with a factor, which no artifact has.
WRITTEN = tuple(name for name in ALGORITHMS if name != "NVFP4_AWQ")


def spell(weight: StoredWeight) -> str | None:
    """The `quant_algo` that means what a weight's scheme means, or None."""
    return next((name for name in WRITTEN if _means(ALGORITHMS[name], weight)), None)


def _means(algorithm: Algorithm, weight: StoredWeight) -> bool:
    form, rounding = weight.form, weight.rounding
    two_level = {"e2m1": "e4m3"}.get(algorithm.format)
    scale = two_level or ("e8m0" if algorithm.group == 32 else None)
    if form.type != algorithm.format or not form.symmetric:
        return False
    if form.type == "int4" and weight.rows % 2:  # two rows to a byte
        return False
    if form.scale != scale if scale else form.scale not in ("float32", "float16", "bfloat16"):
        return False
    if (form.group == 0) if algorithm.group is None else (form.group != algorithm.group):
        return False
    rows = form.group if algorithm.rows is None else algorithm.rows
    if form.rows != rows or (scale == "e4m3" and form.group != 16):
        return False
    wanted, given = algorithm.activation, rounding.form if rounding else None
    if wanted is None or given is None:
        return wanted is None and given is None
    return (wanted.format, wanted.group, wanted.static) == (given.type, given.group, given.static) and (
        wanted.static or wanted.scale == given.scale
    )


def tensors(module: Module, weight: StoredWeight, algorithm: str) -> list[OutTensor]:
    """The checkpoint's tensors of one weight."""
    form, rows, width = weight.form, weight.rows, weight.width
    name = f"{weight.module}.weight"
    blocks = -(-rows // form.rows) if form.rows else 1
    groups = width // form.group if form.group else 1
    shape: tuple[int, ...] = (blocks, groups) if form.group else (() if form.rows == 0 else (blocks,))
    dtype = torch.uint8 if form.scale == "e8m0" else SCALES[form.scale].dtype
    stored = find_format(form.type)
    packed = (rows // 2, width) if form.type == "int4" else (rows, stored.packed_width(width))
    out = [
        OutTensor(name, stored.storage, packed, partial(_packed, module, weight)),
        OutTensor(f"{name}_scale", dtype, shape, partial(_scale, module, weight, shape)),
    ]
    if form.two_level:
        held = f"{weight.held}.tensor_scale"
        out.append(OutTensor(f"{name}_scale_2", torch.float32, (), partial(_scalar, module, held)))
    if weight.rounding and weight.rounding.scale:
        read = partial(_scalar, module, weight.rounding.scale)
        out.append(OutTensor(f"{weight.module}.input_scale", torch.float32, (), read))
    return out


def _scalar(module: Module, name: str) -> Tensor:
    return module.weights[name].float().reshape(())


def _scale(module: Module, weight: StoredWeight, shape: tuple[int, ...]) -> Tensor:
    scale = weight.part(module, "scale")
    assert scale is not None
    return (scale.view(torch.uint8) if weight.form.scale == "e8m0" else scale).reshape(shape)


def _packed(module: Module, weight: StoredWeight) -> Tensor:
    packed = weight.part(module, "packed")
    assert packed is not None
    if weight.form.type != "int4":
        return packed
    fields = unpack_fields(packed, 4) ^ 8  # two's complement
    return fields[0::2] | (fields[1::2] << 4)


def configuration(spelled: Mapping[str, str], groups: Mapping[str, int], ignore: Sequence[str]) -> Json:
    """The content of `hf_quant_config.json`.

    Args:
        spelled: layer name -> its `quant_algo`.
        groups: layer name -> channels that share a scale.
        ignore: names of linears that are not quantized.
    """
    layers = {name: _layer(algorithm, groups[name]) for name, algorithm in spelled.items()}
    kinds = {tuple(sorted(layer.items())) for layer in layers.values()}
    content: Json = {"kv_cache_quant_algo": None, "exclude_modules": list(ignore)}
    if len(kinds) == 1:
        content |= dict(kinds.pop())
    else:
        content |= {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    return {"producer": {"name": NAME, "version": "0.47.0"}, "quantization": content}


def _layer(algorithm: str, group: int) -> Json:
    layer: Json = {"quant_algo": algorithm}
    if group:
        layer["group_size"] = group
    if algorithm == "W4A16_AWQ":
        layer |= {"has_zero_point": False, "pre_quant_scale": False}
    return layer


def embedded(content: Json) -> Json:
    """The same as `quantization_config` of `config.json`, in the shape modelopt gives it there."""
    details = content["quantization"]
    out: Json = {"quant_method": NAME, "producer": content["producer"], "ignore": details["exclude_modules"]}
    out |= {k: v for k, v in details.items() if k in ("quant_algo", "group_size", "quantized_layers")}
    layers = details.get("quantized_layers")
    if layers is None:
        out["config_groups"] = {"group_0": {**_config_group(details), "targets": ["Linear"]}}
        return out
    kinds: dict[str, list[str]] = {}
    for name, layer in layers.items():
        kinds.setdefault(str(sorted(layer.items())), []).append(name)
    out["config_groups"] = {
        f"group_{i}": {**_config_group(layers[names[0]]), "targets": sorted(names)}
        for i, names in enumerate(kinds.values())
    }
    return out


def _config_group(layer: Json) -> Json:
    algorithm = ALGORITHMS[layer["quant_algo"]]
    kind = "int" if algorithm.format.startswith("int") else "float"
    weights: Json = {"dynamic": False, "num_bits": find_format(algorithm.format).bits, "type": kind}
    if layer.get("group_size"):
        weights["group_size"] = layer["group_size"]
    elif algorithm.rows == 1:
        weights["strategy"] = "channel"
    if algorithm.activation is None:
        return {"weights": weights}
    rule = algorithm.activation
    inputs: Json = {"dynamic": False, "num_bits": find_format(rule.format).bits, "type": kind}
    if layer.get("group_size"):
        inputs["group_size"] = layer["group_size"]
    return {"weights": weights, "input_activations": inputs}
