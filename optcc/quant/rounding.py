"""A whole weight: into groups, onto a grid, packed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from optcc.ir.formats import find_format
from optcc.ir.ops.quantized import PARTS, dequantize
from optcc.quant.grid import Grid, fit_grid, tensor_scale_of
from optcc.recipe.schemes import WeightFormat

_ELEMENTS_AT_ONCE = 1 << 22  # so that a large embedding costs no large temporaries


@dataclass(frozen=True)
class PackedWeight:
    """A quantized weight as it is stored: see `optcc.ir.ops.quantized` for the layout.

    Attributes:
        packed: [O, packed width] in the number format's storage type.
        scale: [blocks of rows, groups] in the scheme's scale type.
        zero: int8 zero points of the same shape as scale, or None when symmetric.
        tensor_scale: float32 [1], or None with one level of scales.
    """

    packed: Tensor
    scale: Tensor
    zero: Tensor | None = None
    tensor_scale: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """The parts that are there, by name."""
        return {part: tensor for part in PARTS if (tensor := getattr(self, part)) is not None}


def group_count(width: int, form: WeightFormat) -> int:
    """Groups along a row of `width` channels."""
    return width // form.group if form.group else 1


def split_rows(rows: int, form: WeightFormat, width: int) -> list[slice]:
    """Pieces of a weight to work on one after another: whole blocks of rows, about 4 million elements each."""
    block = form.rows or rows
    step = max(block, _ELEMENTS_AT_ONCE // max(width, 1) // block * block)
    return [slice(first, min(first + step, rows)) for first in range(0, rows, step)]


def by_row(each: Tensor, form: WeightFormat, rows: int) -> Tensor:
    """One for every block of rows, [blocks, groups] -> one for every row, [O, groups]."""
    return each.repeat_interleave(form.rows or rows, 0)[:rows]


def to_groups(weight: Tensor, form: WeightFormat) -> Tensor:
    """[O, K] -> [blocks, groups, elements that share a scale]; missing rows of the last block are zeros."""
    rows, width = weight.shape
    block = form.rows or rows
    missing = -rows % block
    if missing:
        weight = torch.cat([weight, weight.new_zeros(missing, width)])
    groups = group_count(width, form)
    blocks = weight.reshape(-1, block, groups, width // groups)
    return blocks.transpose(1, 2).flatten(2)


def from_groups(groups: Tensor, rows: int, form: WeightFormat) -> Tensor:
    """The inverse of `to_groups`, without the rows that were added."""
    block = form.rows or rows
    blocks: Tensor = groups.unflatten(-1, (block, -1)).transpose(1, 2)
    return blocks.flatten(2).flatten(0, 1)[:rows]


def tensor_scale(weight: Tensor, form: WeightFormat) -> Tensor | None:
    """The scale of the whole weight, where its format has one."""
    if not form.two_level:
        return None
    pieces = split_rows(weight.shape[0], form, weight.shape[1])
    return tensor_scale_of(max(float(weight[p].abs().max()) for p in pieces), form)


def round_to_nearest(
    weight: Tensor,
    form: WeightFormat,
    *,
    search: int = 0,
    importance: Tensor | None = None,
    signed: bool = False,
) -> PackedWeight:
    """Quantize a weight [O, K] by rounding every value to the nearest of its grid, ties to even.

    Args:
        weight: any floating type; K must be a multiple of the group. Computed in float32, a piece at a time.
        form: number format, groups and scale type.
        search: ranges tried for each group besides the full one (`optcc.quant.grid`).
        importance: float32 [K], weight of each channel's error in the search.
        signed: whether the search tries negative scales too.
    """
    rows, width = weight.shape
    whole = tensor_scale(weight, form)
    weights = None if importance is None else to_groups(importance.expand(form.rows or rows, width), form)
    number = find_format(form.type)
    # Filled piece by piece: results kept between the temporaries of a loop would leave holes as large as the weight.
    packed = torch.empty(rows, number.packed_width(width), dtype=number.storage)
    scales, zeros = [], []
    for piece in split_rows(rows, form, width):
        block = weight[piece].to(torch.float32)
        groups = to_groups(block, form)
        grid = fit_grid(groups, form, tensor_scale=whole, search=search, importance=weights, signed=signed)
        packed[piece] = number.pack(from_groups(grid.levels(groups), len(block), form))
        scales.append(grid.scale.squeeze(-1))
        zeros.append(grid.zero)
    zero = None if form.symmetric else torch.cat([z.squeeze(-1) for z in zeros if z is not None])
    return PackedWeight(packed, torch.cat(scales), zero, whole)


def pack_levels(levels: Tensor, grid: Grid) -> PackedWeight:
    """Pack levels that an algorithm chose.

    Args:
        levels: float32 [O, K].
        grid: of all groups: scale and zero [blocks, groups, 1].
    """
    zero = None if grid.zero is None else grid.zero.squeeze(-1)
    return PackedWeight(
        find_format(grid.form.type).pack(levels), grid.scale.squeeze(-1), zero, grid.tensor_scale
    )


def unpacked(weight: PackedWeight, form: WeightFormat) -> Tensor:
    """What a packed weight stands for, float32 [O, K]."""
    return dequantize(
        weight.packed,
        weight.scale,
        weight.zero,
        weight.tensor_scale,
        form.type,
        form.group,
        form.rows,
        torch.float32,
    )
