"""GPTQ checkpoints as AutoGPTQ and GPTQModel write them, with and without activation order (`desc_act`).

`qweight` int32 [K bits / 32, O]: words along K. `qzeros` int32 [groups, O bits / 32]: words along O, in layout v1 the
zero point minus 1. `scales` [groups, O]. `g_idx` int32 [K]: each channel's group.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

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

_LAYOUTS = ("gptq", "gptq_v2")
_HINT = "save it again in the layout `gptq`, or compile the original model with a recipe of optcc"


def find(config: Config, stored: Stored, where: str) -> list[Found]:
    """The quantized weights. Raises UnsupportedCheckpoint, CorruptWeights."""
    layout = str(config.get("checkpoint_format") or "gptq")
    if layout not in _LAYOUTS or config.get("is_marlin_format"):
        raise refuse(f"GPTQ's layout {layout!r} is not read", where, _HINT)
    if config.get("pack_dtype", "int32") != "int32":
        raise refuse(f"GPTQ words of type {config['pack_dtype']} are not read", where, _HINT)
    if config.get("dynamic"):
        raise refuse("GPTQ with settings of their own for some modules (dynamic) is not read", where, _HINT)
    bits, group = int(config.get("bits", 4)), max(int(config.get("group_size", -1)), 0)
    number = integer_format(bits, where)
    found = []
    for module in modules_with(stored, "qweight"):
        tensors = Tensors(module, stored, where)
        shape = (tensors.source("qweight").shape[1], tensors.source("qweight").shape[0] * 32 // bits)
        size = 0 if group == shape[1] else group
        read = partial(_read, tensors, bits, size, layout == "gptq", shape)
        used = tensors.used("qweight", "qzeros", "scales", "g_idx")
        found.append(Found(module, shape, number, size, 1, used, read))
    return found


def _read(tensors: Tensors, bits: int, group: int, minus_one: bool, shape: tuple[int, int]) -> Parts:
    order = None
    if group and tensors.has("g_idx"):
        order = order_of(tensors["g_idx"], group, tensors.module, tensors.where)
    packed = row_bytes(tensors["qweight"].T.contiguous(), bits, shape[1])
    zero = _zero(tensors, bits, shape[0], minus_one)
    if bits == 8:
        packed = signed(packed)
    if bits == 2:
        packed = without_lowest(packed, tensors.module, tensors.where)
        if zero is not None:
            raise refuse(f"{tensors.module} has 2-bit weights with zero points", tensors.where, _HINT)
    scale = tensors.scales(tensors["scales"].T.contiguous(), shape, group, 1)
    return Parts(reordered(packed, order, bits), scale, zero, order=order)


def _zero(tensors: Tensors, bits: int, rows: int, minus_one: bool) -> Tensor | None:
    """Zero points int8 [O, groups]; None when all are the middle, which is symmetric.

    Layout v1 holds them minus 1, and its kernels add it within the field's bits: 2^bits - 1 stands for 0.
    """
    stored = fields(tensors["qzeros"], bits, rows).to(torch.int16)
    middle = 1 << (bits - 1)
    levels = ((stored + minus_one) & ((1 << bits) - 1)) - middle
    return levels.to(torch.int8).T.contiguous() if bool(levels.any()) else None
