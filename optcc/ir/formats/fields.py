"""Fields of a few bits in bytes: the first value in the lowest bits, fields may straddle bytes.

Eight values of b bits take b bytes, so a last dimension that is a multiple of 8 always packs. For b = 4 this is the
order of ONNX's and compressed-tensors' nibbles.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pack_fields(fields: Tensor, bits: int) -> Tensor:
    """Integers 0..2^bits-1 [..., K] -> uint8 [..., K*bits/8]; K*bits must be whole bytes."""
    if bits in (1, 2, 4, 8):
        each = 8 // bits
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=fields.device)
        return _join(fields.to(torch.uint8).unflatten(-1, (-1, each)) << shifts)
    places = torch.arange(bits, dtype=torch.uint8, device=fields.device)
    stream = ((fields.to(torch.uint8).unsqueeze(-1) >> places) & 1).flatten(-2)
    return _join(stream.unflatten(-1, (-1, 8)) << torch.arange(8, dtype=torch.uint8, device=fields.device))


def unpack_fields(packed: Tensor, bits: int) -> Tensor:
    """uint8 [..., K*bits/8] -> uint8 [..., K] of integers 0..2^bits-1."""
    if bits in (1, 2, 4, 8):
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
        fields: Tensor = ((packed.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)).flatten(-2)
        return fields
    stream = ((packed.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8, device=packed.device)) & 1).flatten(
        -2
    )
    return _join(
        stream.unflatten(-1, (-1, bits)) << torch.arange(bits, dtype=torch.uint8, device=packed.device)
    )


def _join(parts: Tensor) -> Tensor:
    """Parts that share no bit, into one byte."""
    return torch.sum(parts, -1, dtype=torch.uint8)
