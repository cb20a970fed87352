"""How far every stored weight is from the weight it stands for, against what rounding to nearest would cost."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from optcc.export.stored import StoredWeight
from optcc.ir.module import Module
from optcc.quant.rounding import round_to_nearest, unpacked
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
    wanted = original.float()
    nearest = unpacked(round_to_nearest(wanted, weight.form), weight.form)
    found = _by_group((weight.dequantized(module) - wanted).square(), weight.form)
    least = _by_group((nearest - wanted).square(), weight.form)
    # What its format holds exactly still may be off by a thousandth of its size.
    least = torch.maximum(least, _by_group(wanted.square(), weight.form) * 1e-6 + 1e-20)
    ratios = [(found.sum(dims) / least.sum(dims)).sqrt().max() for dims in ((0, 1), (0,), (1,))]
    return WeightError(weight.name, float(ratios[0]), float(torch.stack(ratios).max()))


def _by_group(squares: Tensor, form: WeightFormat) -> Tensor:
    """[O, K] -> sums [O, groups]."""
    sums: Tensor = squares.unflatten(1, (-1, form.group or squares.shape[1])).sum(-1)
    return sums
