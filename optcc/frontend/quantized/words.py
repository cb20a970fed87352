"""Bit layouts of other tools' packed weights, to optcc's bytes and back.

All of them put fields into 32-bit words, the first value in the lowest bits. Words along a row are, on a little-endian
machine, the same bytes as `optcc.ir.formats.fields`, so most conversions are views. Sources: the layouts as
compressed-tensors 0.20 (`pack_to_int32`), AutoGPTQ / GPTQModel and AutoAWQ (GEMM) write them.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from optcc.ir.formats import pack_fields, unpack_fields

WORD = 4
"""Bytes of a word."""
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""The column of its eight whose value AWQ puts into nibble 0, 1, … of a word."""


def word_bytes(words: Tensor) -> Tensor:
    """int32 [..., W] -> uint8 [..., 4 W], lowest byte first."""
    data = words.contiguous().view(torch.uint8)
    return data if sys.byteorder == "little" else data.unflatten(-1, (-1, WORD)).flip(-1).flatten(-2)


def to_words(data: Tensor) -> Tensor:
    """uint8 [..., B] -> int32 [..., ceil(B / 4)]; rows are filled up with zeros."""
    missing = -data.shape[-1] % WORD
    if missing:
        data = torch.nn.functional.pad(data, (0, missing))
    if sys.byteorder != "little":
        data = data.unflatten(-1, (-1, WORD)).flip(-1).flatten(-2)
    return data.contiguous().view(torch.int32)


def row_bytes(words: Tensor, bits: int, width: int) -> Tensor:
    """Rows of words -> rows of optcc's packed bytes, without what filled the last word up.

    Shapes: int32 [N, W] -> uint8 [N, width * bits / 8]; width * bits must be whole bytes.
    """
    return word_bytes(words)[:, : width * bits // 8].contiguous()


def signed(data: Tensor) -> Tensor:
    """Bytes with 128 added, uint8 -> int8; and back, int8 -> uint8: the sign bit turned over."""
    turned = data.view(torch.uint8) ^ 0x80
    return turned.view(torch.int8) if data.dtype == torch.uint8 else turned


def fields(words: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` fields of every row: int32 [N, W] -> uint8 [N, count]."""
    data = word_bytes(words)
    # unpack_fields takes whole bytes of whole fields.
    missing = -data.shape[-1] % bits
    return unpack_fields(torch.nn.functional.pad(data, (0, missing)), bits)[:, :count]


def field_words(values: Tensor, bits: int) -> Tensor:
    """The inverse of `fields`: uint8 [N, count] -> int32 [N, ceil(count * bits / 32)]."""
    width = -(-values.shape[-1] * bits // 32)
    padded = torch.nn.functional.pad(values, (0, -values.shape[-1] % 32))
    return to_words(pack_fields(padded, bits))[:, :width].contiguous()


def awq_columns(words: Tensor) -> Tensor:
    """AWQ's words along a row -> its 4-bit values in order: int32 [N, W] -> uint8 [N, 8 W]."""
    nibbles = fields(words, 4, words.shape[-1] * 8).unflatten(-1, (-1, 8))
    values = torch.empty_like(nibbles)
    values[..., list(AWQ_ORDER)] = nibbles
    return values.flatten(-2)
