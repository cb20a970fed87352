"""nvidia-modelopt's checkpoints (`export_hf_checkpoint`), told apart by `quant_algo`.

Source: modelopt 0.47, `torch/export/quant_utils.py`: `to_quantized_weight`, `process_layer_quant_config`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from optcc.frontend.program import ActivationRule
from optcc.frontend.quantized.found import Config, Found, Parts, Stored, Tensors, modules_with, refuse
from optcc.ir.formats import pack_fields

_HINT = (
    "export it with another configuration of modelopt, or compile the original model with a recipe of optcc"
)
_USED = ("weight", "weight_scale", "weight_scale_2", "input_scale", "pre_quant_scale")


@dataclass(frozen=True)
class Algorithm:
    """One `quant_algo`.

    Attributes:
        format: of the weights.
        group: input channels that share a scale; None takes `group_size` of the configuration.
        rows: output channels that share a scale; None is the group's number.
        activation: how the input is rounded.
    """

    format: str
    group: int | None = 0
    rows: int | None = 1
    activation: ActivationRule | None = None


ALGORITHMS: Mapping[str, Algorithm] = {
    "FP8": Algorithm("e4m3", 0, 0, ActivationRule("e4m3", static=True)),
    "FP8_PER_CHANNEL_PER_TOKEN": Algorithm("e4m3", 0, 1, ActivationRule("e4m3")),
    "FP8_PB_WO": Algorithm("e4m3", None, None),
    "W8A16": Algorithm("int8"),
    "W8A8_SQ_PER_CHANNEL": Algorithm("int8", 0, 1, ActivationRule("int8", static=True)),
    "W4A16_AWQ": Algorithm("int4", None),
    "NVFP4": Algorithm("e2m1", None, 1, ActivationRule("e2m1", 16, "e4m3")),
    "W4A16_NVFP4": Algorithm("e2m1", None),
    "NVFP4_AWQ": Algorithm("e2m1", None, 1, ActivationRule("e2m1", 16, "e4m3")),
    "MXFP8": Algorithm("e4m3", 32, 1, ActivationRule("e4m3", 32, "e8m0")),
}
"""What each `quant_algo` means; spelled as modelopt writes it."""
_GROUPS = {"FP8_PB_WO": 128, "W4A16_AWQ": 128, "NVFP4": 16, "W4A16_NVFP4": 16, "NVFP4_AWQ": 16}


def find(config: Config, stored: Stored, where: str) -> list[Found]:
    """The quantized weights. Raises UnsupportedCheckpoint, CorruptWeights."""
    algorithm = config.get("quant_algo")
    layers = config.get("quantized_layers") or {}
    found = []
    for module in modules_with(stored, "weight_scale"):
        settings = layers.get(module, {}) if algorithm == "MIXED_PRECISION" else config
        found.append(_found(Tensors(module, stored, where), settings, config))
    return found


def _found(tensors: Tensors, settings: Mapping[str, Any], config: Config) -> Found:
    name = str(settings.get("quant_algo", "")).upper()
    if name not in ALGORITHMS:
        raise refuse(f"modelopt's quant_algo {name or None!r} is not read", tensors.where, _HINT)
    algorithm = ALGORITHMS[name]
    group = algorithm.group if algorithm.group is not None else _group(name, settings, config)
    rows = group if algorithm.rows is None else algorithm.rows
    shape = _shape(tensors.source("weight").shape, algorithm.format)
    read = partial(_read, tensors, algorithm, group, rows, shape)
    return Found(
        tensors.module, shape, algorithm.format, group, rows, tensors.used(*_USED), read, algorithm.activation
    )


def _group(name: str, settings: Mapping[str, Any], config: Config) -> int:
    """`group_size` of a layer, of the whole, or of the config group; else the algorithm's own."""
    inner: list[Mapping[str, Any]] = [g.get("weights", {}) for g in config.get("config_groups", {}).values()]
    given = next((s["group_size"] for s in (settings, *inner) if s.get("group_size")), None)
    return int(given or _GROUPS[name])


def _shape(stored: tuple[int, ...], number: str) -> tuple[int, int]:
    rows, width = stored
    if number == "int4":
        return rows * 2, width
    return (rows, width * 2) if number == "e2m1" else (rows, width)


def _read(tensors: Tensors, algorithm: Algorithm, group: int, rows: int, shape: tuple[int, int]) -> Parts:
    whole = tensors.get("weight_scale_2")
    kept: Callable[[Tensor], Tensor] = _PACKED.get(algorithm.format, lambda weight: weight)
    activation = algorithm.activation
    needs_scale = activation is not None and (activation.static or activation.scale == "e4m3")
    return Parts(
        kept(tensors["weight"]),
        tensors.scales(tensors["weight_scale"], shape, group, rows),
        tensor_scale=None if whole is None else whole.float().reshape(1),
        factor=_factor(tensors),
        input_scale=tensors["input_scale"].float().reshape(1) if needs_scale else None,
    )


def _factor(tensors: Tensors) -> Tensor | None:
    factor = tensors.get("pre_quant_scale")
    return None if factor is None else factor.float().reshape(-1)


def _from_rows(weight: Tensor) -> Tensor:
    """4-bit integers packed along the rows, two's complement: uint8 [O / 2, K] -> optcc's uint8 [O, K / 2]."""
    low, high = weight & 0x0F, weight >> 4
    fields = torch.stack([low, high], 1).flatten(0, 1) ^ 8  # level + 8
    return pack_fields(fields, 4)


_PACKED: Mapping[str, Callable[[Tensor], Tensor]] = {"int4": _from_rows}
