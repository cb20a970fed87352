"""compressed-tensors: what llm-compressor writes and vLLM reads.

Formats read: pack-quantized, int-quantized, float-quantized, naive-quantized, nvfp4-pack-quantized,
mxfp4-pack-quantized, mxfp8-quantized, and mixed-precision of these. Source: compressed-tensors 0.20, `compressors/`
and `quantization/quant_args.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from optcc.frontend.program import ActivationRule
from optcc.frontend.quantized.found import (
    Config,
    Found,
    Parts,
    Stored,
    Tensors,
    integer_format,
    modules_with,
    order_of,
    refuse,
    reordered,
    without_lowest,
)
from optcc.frontend.quantized.words import fields, row_bytes, signed

_FORMATS = (
    "pack-quantized",
    "int-quantized",
    "float-quantized",
    "naive-quantized",
    "nvfp4-pack-quantized",
    "mxfp4-pack-quantized",
    "mxfp8-quantized",
    "mixed-precision",
)
_PARTS = (
    "weight_packed",
    "weight",
    "weight_scale",
    "weight_zero_point",
    "weight_global_scale",
    "weight_shape",
)
_INPUT = ("input_scale", "input_global_scale", "input_zero_point", "weight_g_idx")
_ORIGINAL = "compile the original model with a recipe of optcc"


def find(config: Config, stored: Stored, where: str) -> list[Found]:
    """The quantized weights. Raises UnsupportedCheckpoint, CorruptWeights."""
    form = config.get("format")
    if form not in _FORMATS:
        raise refuse(f"compressed-tensors' format {form!r} is not read", where, _ORIGINAL)
    sparsity = config.get("sparsity_config") or {}
    if sparsity.get("format", "dense") != "dense":
        raise refuse(f"weights are sparse ({sparsity.get('format')})", where, _ORIGINAL)
    transforms = config.get("transform_config") or {}
    if transforms.get("config_groups"):
        raise refuse("the model rotates activations while it runs (transform_config)", where, _ORIGINAL)
    groups = config.get("config_groups") or {}
    return [_found(Tensors(m, stored, where), groups) for m in modules_with(stored, "weight_scale")]


def _found(tensors: Tensors, groups: Mapping[str, Any]) -> Found:
    rule = _rule(tensors, groups)
    weights = rule["weights"]
    if rule.get("output_activations"):
        raise refuse(f"{tensors.module} rounds its output", tensors.where, _ORIGINAL)
    packed = tensors.has("weight_packed")
    data = tensors.source("weight_packed" if packed else "weight")
    bits, kind = int(weights["num_bits"]), str(weights["type"])
    group, rows = _granularity(weights, tensors)
    number = _number(kind, bits, packed, tensors)
    if not packed:
        width = data.shape[1]
    else:
        width = data.shape[1] * 2 if kind == "float" else int(tensors["weight_shape"][1])
    shape = (data.shape[0], width)
    activation = _activation(rule.get("input_activations"), tensors)
    read = partial(_read, tensors, weights, number, group, rows, shape, activation)
    used = tensors.used(*_PARTS, *_INPUT)
    return Found(tensors.module, shape, number, group, rows, used, read, activation)


def _number(kind: str, bits: int, packed: bool, tensors: Tensors) -> str:
    """The number format here. Raises UnsupportedCheckpoint."""
    if kind == "int":
        return integer_format(bits, tensors.where) if packed else "int8"
    if bits not in (4, 8):
        raise refuse(f"{tensors.module} has float weights of {bits} bits", tensors.where, _ORIGINAL)
    return "e4m3" if bits == 8 else "e2m1"


def _rule(tensors: Tensors, groups: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config group of a module: by its own name, by a regular expression, else by its class."""

    def rank(target: str) -> int | None:
        if target == tensors.module:
            return 0
        if target.startswith("re:"):
            return 1 if re.match(target[3:], tensors.module) else None
        return 2 if "." not in target and target[:1].isupper() else None

    ranked = [
        (found, rule)
        for rule in groups.values()
        if isinstance(rule, Mapping) and rule.get("weights")
        for target in rule.get("targets", ())
        if (found := rank(target)) is not None
    ]
    if not ranked:
        raise refuse(
            f"no config group of quantization_config is for {tensors.module}", tensors.where, _ORIGINAL
        )
    return min(ranked, key=lambda pair: pair[0])[1]


def _granularity(weights: Mapping[str, Any], tensors: Tensors) -> tuple[int, int]:
    """(group, rows) as `optcc::dequantize` takes them."""
    strategy, group = weights.get("strategy"), int(weights.get("group_size") or 0)
    if strategy is None:
        strategy = "tensor" if group == 0 else "channel" if group == -1 else "group"
    if strategy in ("group", "tensor_group"):
        return group, 1
    if strategy == "block":
        rows, columns = weights["block_structure"]
        return int(columns), int(rows)
    if strategy == "channel":
        return 0, 1
    if strategy == "tensor":
        return 0, 0
    raise refuse(f"{tensors.module} has weights quantized per {strategy}", tensors.where, _ORIGINAL)


def _activation(args: Mapping[str, Any] | None, tensors: Tensors) -> ActivationRule | None:
    """How the input is rounded. Raises UnsupportedCheckpoint."""
    if not args:
        return None
    kind = {("int", 8): "int8", ("float", 8): "e4m3", ("float", 4): "e2m1"}.get(
        (args.get("type", "int"), int(args.get("num_bits", 8)))
    )
    strategy, dynamic = args.get("strategy"), args.get("dynamic")
    if strategy is None:
        strategy = "group" if args.get("group_size") else "token" if dynamic else "tensor"
    group = int(args.get("group_size") or 0)
    if kind and args.get("symmetric", True):
        if strategy == "token" and dynamic:
            return ActivationRule(kind)
        if strategy == "group" and dynamic:
            small = group == 32 and str(args.get("scale_dtype", "")).endswith("uint8")
            return ActivationRule(kind, group, "e8m0" if small else "float32")
        if strategy == "tensor_group" and dynamic == "local":
            return ActivationRule(kind, group, "e4m3")
        if strategy == "tensor" and not dynamic:
            return ActivationRule(kind, static=True)
    shown = f"{'a' if not args.get('symmetric', True) else ''}symmetric, {'dynamic' if dynamic else 'static'}"
    raise refuse(
        f"{tensors.module} rounds its input to {args.get('num_bits')} bits per {strategy} ({shown})",
        tensors.where,
        "activations are read per token or group when dynamic, per tensor when static; symmetric. "
        "Quantize the model so, or compile the original with a recipe of optcc",
    )


def _read(
    tensors: Tensors,
    weights: Mapping[str, Any],
    number: str,
    group: int,
    rows: int,
    shape: tuple[int, int],
    activation: ActivationRule | None,
) -> Parts:
    scale = tensors.scales(tensors["weight_scale"], shape, group, rows)
    whole = tensors.get("weight_global_scale")
    order = _order(tensors, group)
    bits = int(weights["num_bits"])
    return Parts(
        _packed(tensors, number, bits, shape, order),
        scale,
        zero=None if weights.get("symmetric", True) else _zero(tensors, bits, scale),
        # compressed-tensors divides by its global scale, optcc multiplies by its own.
        tensor_scale=None if whole is None else whole.float().reshape(1).reciprocal(),
        order=order,
        input_scale=_input_scale(tensors, activation),
    )


def _packed(tensors: Tensors, number: str, bits: int, shape: tuple[int, int], order: Tensor | None) -> Tensor:
    if not tensors.has("weight_packed"):
        return reordered(tensors["weight"], order, 8)
    data = tensors["weight_packed"]
    if number == "e2m1":
        return reordered(data, order, 4)
    packed = row_bytes(data, bits, shape[1])
    if number == "int8":
        return reordered(signed(packed), order, 8)
    if number == "ternary":
        packed = without_lowest(packed, tensors.module, tensors.where)
    return reordered(packed, order, bits)


def _zero(tensors: Tensors, bits: int, scale: Tensor) -> Tensor:
    """Zero points int8 [O, groups]; packed ones lie in words along O."""
    zero = tensors["weight_zero_point"]
    if zero.dtype == torch.int32:
        values = fields(zero.T.contiguous(), bits, scale.shape[0])
        return (values.to(torch.int16) - (1 << (bits - 1))).to(torch.int8).T.contiguous()
    return zero.to(torch.int8).reshape(scale.shape)


def _order(tensors: Tensors, group: int) -> Tensor | None:
    if not tensors.has("weight_g_idx") or not group:
        return None
    return order_of(tensors["weight_g_idx"], group, tensors.module, tensors.where)


def _input_scale(tensors: Tensors, activation: ActivationRule | None) -> Tensor | None:
    if activation is None:
        return None
    if activation.static:
        return tensors["input_scale"].float().reshape(1)
    if activation.scale == "e4m3":
        return tensors["input_global_scale"].float().reshape(1).reciprocal()
    return None
