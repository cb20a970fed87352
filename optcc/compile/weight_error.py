"""How far every stored weight is from the weight it stands for, against what rounding to nearest would cost."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from optcc.export.stored import StoredWeight
from optcc.ir.module import Module
from optcc.quant.rounding import round_to_nearest, unpacked
from optcc.recipe.schemes import WeightFormat

_ROWS = 32
"""Rows of a block. A few hundred to a few thousand values: enough that clean blocks are alike."""


@dataclass(frozen=True)
class WeightError:
    """One stored weight.

    Attributes:
        name: in the original.
        whole: root of its squared error / that of rounding the original to the nearest value of the same format.
        worst: the largest such ratio of any block of rows and columns that share scales.
    """

    name: str
    whole: float
    worst: float


def weight_error(weight: StoredWeight, module: Module, original: Tensor) -> WeightError:
    """Measure one weight.

    Args:
        weight: as the artifact stores it.
        module: what holds it.
        original: [O, K], any floating type.
    """
    wanted = original.float()
    nearest = unpacked(round_to_nearest(wanted, weight.form), weight.form)
    found = _blocks((weight.dequantized(module) - wanted).square(), weight.form)
    least = _blocks((nearest - wanted).square(), weight.form)
    # A block that its format holds exactly still may be off by a thousandth of its size.
    floor = _blocks(wanted.square(), weight.form) * 1e-6 + 1e-20
    whole = (found.sum() / torch.maximum(least.sum(), floor.sum())).sqrt()
    return WeightError(weight.name, float(whole), float((found / torch.maximum(least, floor)).sqrt().max()))


def _blocks(squares: Tensor, form: WeightFormat) -> Tensor:
    """[O, K] -> sums [blocks of rows, groups]."""
    rows, width = squares.shape
    group = form.group or width
    by_group = squares.unflatten(1, (width // group, group)).sum(-1)
    missing = -rows % _ROWS
    if missing:
        by_group = torch.cat([by_group, by_group.new_zeros(missing, by_group.shape[1])])
    return by_group.unflatten(0, (-1, _ROWS)).sum(1)
