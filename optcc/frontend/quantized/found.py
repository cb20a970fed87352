"""What a reader of one checkpoint format reports: which weights are quantized, and how to get their parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optcc.errors import CorruptWeights, UnsupportedCheckpoint
from optcc.frontend.program import ActivationRule, WeightSource
from optcc.ir.formats import pack_fields, unpack_fields

Config = Mapping[str, Any]
Stored = Mapping[str, WeightSource]

INTEGERS = {8: "int8", 4: "int4", 3: "int3", 2: "ternary"}
"""Bits -> optcc's integer format; two bits only where no value is -2."""


@dataclass(frozen=True)
class Parts:
    """The tensors of one quantized weight in optcc's layout; see PackedSource."""

    packed: Tensor
    scale: Tensor
    zero: Tensor | None = None
    tensor_scale: Tensor | None = None
    order: Tensor | None = None
    factor: Tensor | None = None
    input_scale: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Those that are there."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Found:
    """One quantized weight of a checkpoint.

    Attributes:
        module: name of the linear (or embedding) that has it.
        shape: [O, K].
        format, group, rows: as the operator `optcc::dequantize` takes them.
        used: stored tensors that this is made of.
        read: makes the parts; called once, and only this weight is in memory then.
        activation: how the input is rounded.
    """

    module: str
    shape: tuple[int, int]
    format: str
    group: int
    rows: int
    used: tuple[str, ...]
    read: Callable[[], Parts]
    activation: ActivationRule | None = None


@dataclass(frozen=True)
class Tensors:
    """The stored tensors of one module of a checkpoint, by the last part of their names.

    Attributes:
        module: its name.
        stored: everything the checkpoint holds.
        where: the checkpoint, for messages.
    """

    module: str
    stored: Stored
    where: str

    def name(self, part: str) -> str:
        """The full name of a tensor."""
        return f"{self.module}.{part}"

    def has(self, part: str) -> bool:
        """Whether the module has this tensor."""
        return self.name(part) in self.stored

    def source(self, part: str) -> WeightSource:
        """Where a tensor lies. Raises CorruptWeights when it is missing."""
        name = self.name(part)
        if name not in self.stored:
            raise CorruptWeights(
                f"the quantized weight of {self.module} has no {part}",
                where=self.where,
                hint="a file is missing, or quantization_config describes another checkpoint",
            )
        return self.stored[name]

    def __getitem__(self, part: str) -> Tensor:
        """A tensor, mapped. Raises CorruptWeights when it is missing."""
        return self.source(part).stored()

    def get(self, part: str) -> Tensor | None:
        """A tensor, or None."""
        return self[part] if self.has(part) else None

    def scales(self, scale: Tensor, shape: tuple[int, int], group: int, rows: int) -> Tensor:
        """Stored scales of a weight [O, K] as [blocks of rows, groups], bytes as e8m0; `group` and `rows` as in Found.

        Raises UnsupportedCheckpoint when there are more or fewer than the weight has groups.
        """
        if scale.dtype == torch.uint8:
            scale = scale.view(torch.float8_e8m0fnu)
        blocks = -(-shape[0] // rows) if rows else 1
        groups = -(-shape[1] // group) if group else 1
        if scale.numel() != blocks * groups or (group and shape[1] % group):
            size = (
                f"{rows} x {group}" if rows > 1 else str(group) if group else "whole rows" if rows else "all"
            )
            raise refuse(
                f"{self.module} [{shape[0]}, {shape[1]}] has {scale.numel()} scales for groups of {size}",
                self.where,
                "a group must divide the width of the weight; quantize the model with one that does",
            )
        return scale.reshape(blocks, groups)

    def used(self, *parts: str) -> tuple[str, ...]:
        """Full names of those parts that are there."""
        return tuple(self.name(part) for part in parts if self.has(part))


def modules_with(stored: Stored, part: str) -> list[str]:
    """Modules that have a tensor of this name, in order."""
    return sorted(name.removesuffix(f".{part}") for name in stored if name.endswith(f".{part}"))


def refuse(what: str, where: str, hint: str) -> UnsupportedCheckpoint:
    """The error for a form of checkpoint that optcc has no format for."""
    return UnsupportedCheckpoint(what, where=where, hint=hint)


def integer_format(bits: int, where: str) -> str:
    """The format of integers of so many bits. Raises UnsupportedCheckpoint."""
    if bits not in INTEGERS:
        raise refuse(
            f"weights of {bits} bits have no format here",
            where,
            "quantize the model to 8, 4, 3 or 2 bits, or compile the original with a recipe of optcc",
        )
    return INTEGERS[bits]


def without_lowest(packed: Tensor, module: str, where: str) -> Tensor:
    """Two-bit fields as the ternary format has them: -1, 0, 1. Raises UnsupportedCheckpoint when one is -2."""
    pairs = (
        packed & 0x55 | (packed >> 1) & 0x55
    )  # a field of zero bits, which is level -2, gives a zero pair here
    if bool((pairs != 0x55).any()):
        raise refuse(
            f"{module} has 2-bit weights with four levels; optcc's 2-bit format has -1, 0 and 1",
            where,
            "quantize the model to 3 or 4 bits",
        )
    return packed


def order_of(index: Tensor, group: int, module: str, where: str) -> Tensor | None:
    """From each channel's group (`g_idx` i32[K]) the order that puts every group's channels together.

    Returns None when they are together already. Raises UnsupportedCheckpoint when groups have different sizes.
    """
    groups = index.to(torch.int64)
    if torch.equal(groups, torch.arange(len(groups)) // group):
        return None
    if bool((torch.bincount(groups) != group).any()):
        raise refuse(
            f"the groups of {module} have different sizes (g_idx)", where, "quantize with desc_act: false"
        )
    return torch.argsort(groups, stable=True)


def reordered(packed: Tensor, order: Tensor | None, bits: int) -> Tensor:
    """Columns of packed rows in another order: uint8 [O, K * bits / 8] (int8 [O, K] for 8 bits)."""
    if order is None:
        return packed
    if bits == 8:
        return packed[:, order].contiguous()
    return pack_fields(unpack_fields(packed, bits)[:, order], bits)
