"""AWQ checkpoints in AutoAWQ's GEMM layout.

`qweight` int32 [K, O / 8] and `qzeros` int32 [K / group, O / 8]: eight columns to a word in the order 0 2 4 6 1 3 5 7.
`scales` [K / group, O].
"""

from __future__ import annotations

from functools import partial

import torch

from optcc.frontend.quantized.found import Config, Found, Parts, Stored, Tensors, modules_with, refuse
from optcc.frontend.quantized.words import awq_columns
from optcc.ir.formats import pack_fields

_HINT = "save it in AWQ's GEMM layout with 4 bits, or compile the original model with a recipe of optcc"


def find(config: Config, stored: Stored, where: str) -> list[Found]:
    """The quantized weights. Raises UnsupportedCheckpoint, CorruptWeights."""
    bits = int(config.get("bits", config.get("w_bit", 4)))
    version = str(config.get("version", "gemm")).lower()
    if bits != 4 or version != "gemm":
        raise refuse(f"AWQ with {bits} bits in the layout {version!r} is not read", where, _HINT)
    group = max(int(config.get("group_size", config.get("q_group_size", 128))), 0)
    symmetric = not config.get("zero_point", True)
    found = []
    for module in modules_with(stored, "qweight"):
        tensors = Tensors(module, stored, where)
        width, words = tensors.source("qweight").shape
        shape, size = (words * 8, width), 0 if group == width else group
        read = partial(_read, tensors, symmetric, shape, size)
        used = tensors.used("qweight", "qzeros", "scales")
        found.append(Found(module, shape, "int4", size, 1, used, read))
    return found


def _read(tensors: Tensors, symmetric: bool, shape: tuple[int, int], group: int) -> Parts:
    packed = pack_fields(awq_columns(tensors["qweight"]).T.contiguous(), 4)
    scale = tensors.scales(tensors["scales"].T.contiguous(), shape, group, 1)
    if symmetric:
        return Parts(packed, scale)
    zero = awq_columns(tensors["qzeros"]).to(torch.int8) - 8
    return Parts(packed, scale, zero.T.contiguous())
