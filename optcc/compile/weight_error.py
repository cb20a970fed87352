"""How far every stored weight is from the weight it stands for, against what rounding to nearest would cost."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from optcc.export.stored import StoredWeight
from optcc.ir.module import Module
from optcc.quant.rounding import round_to_nearest, split_rows, unpacked
from optcc.recipe.schemes import WeightFormat


@dataclass(frozen=True)
class WeightError:
    """One stored weight.

    Attributes:
        name: in the original.
        whole: root of its squared error / that of rounding the original to the nearest value of the same format.
        worst: the largest such ratio of any row, and of any group of columns. Smaller pieces of a weight that GPTQ
            rounded differ too much among each other.
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
    # A piece at a time: an embedding with all that is compared here takes many times its own size.
    whole = [
        slice(0, weight.rows)
    ]  # what one scale of the whole weight multiplies can't be rounded in pieces
    pieces = whole if weight.form.two_level else split_rows(weight.rows, weight.form, weight.width)
    sums = [_squares(weight, module, original[piece].float(), piece) for piece in pieces]
    found, least = (torch.cat(side) for side in zip(*sums, strict=True))
    ratios = [(found.sum(dims) / least.sum(dims)).sqrt().max() for dims in ((0, 1), (0,), (1,))]
    return WeightError(weight.name, float(ratios[0]), float(torch.stack(ratios).max()))


def _squares(weight: StoredWeight, module: Module, wanted: Tensor, piece: slice) -> tuple[Tensor, Tensor]:
    """Squared errors of some rows by group [n, groups]: as stored, and as rounding to nearest would leave them."""
    form = weight.form
    found = _by_group((weight.values(module, piece) - wanted).square(), form)
    nearest = unpacked(round_to_nearest(wanted, form), form)
    least = _by_group((nearest - wanted).square(), form)
    # What its format holds exactly still may be off by a thousandth of its size.
    return found, torch.maximum(least, _by_group(wanted.square(), form) * 1e-6 + 1e-20)


def plain_error(name: str, value: Tensor, original: Tensor) -> WeightError:
    """Measure a weight that isn't quantized, by rows: a table has rows that no text may happen to read.

    Args:
        name: in the original.
        value: as the artifact stores it, [O, K].
        original: [O, K], any floating types.
    """
    wanted = original.detach().float()
    found = (value.float() - wanted).square().sum(1)
    least = (wanted.to(value.dtype).float() - wanted).square().sum(1) + wanted.square().sum(1) * 1e-6 + 1e-20
    whole = (found.sum() / least.sum()).sqrt()
    return WeightError(name, float(whole), float((found / least).sqrt().max()))


def _by_group(squares: Tensor, form: WeightFormat) -> Tensor:
    """[O, K] -> sums [O, groups]."""
    sums: Tensor = squares.unflatten(1, (-1, form.group or squares.shape[1])).sum(-1)
    return sums
