"""Grids: which values a group of weights may take, and how the scale and zero point of a group are chosen.

Every algorithm ends here: it decides *which* value a weight becomes, the grid says which there are.

Scales. Symmetric: `step = max|w| / highest`. Asymmetric (integers): `step = (max w - min w) / (2^bits - 1)` over a
range that includes 0, zero point such that the minimum is the lowest level. Power-of-two scales (e8m0):
`2^(floor(log2 max|w|) - floor(log2 highest))`, OCP MX v1.0 section 6.3. Two-level scales (NVFP4): the tensor's is
`max|w| / (highest * 448)`, the groups' are divided by it before they are rounded to e4m3. Ternary: `step = mean|w|`, as
BitNet b1.58 has it.

Search. A smaller range that clips outliers can have less error. With `search` candidates, ranges between the full one
and a third of it are tried for every group, and the one of least squared error, weighted by `importance`, is kept.

Signed scales. Integers have one more level below zero than above. With a scale of either sign a group's largest value
can always be the lowest level, and the step is `max|w| / |lowest|`: 8 instead of 7 parts with 4 bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from optcc.ir.formats import SCALES, NumberFormat, decode_scale, find_format
from optcc.recipe.schemes import WeightFormat

_SMALLEST_RANGE = 0.35
_SIGNED_SCALES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Grid:
    """The levels of some groups of weights.

    Attributes:
        form: what they are stored as.
        scale: as stored, [..., 1] for groups [..., g].
        zero: int8 [..., 1], or None when symmetric.
        tensor_scale: float32 [1], or None with one level of scales.
    """

    form: WeightFormat
    scale: Tensor
    zero: Tensor | None
    tensor_scale: Tensor | None

    @property
    def number(self) -> NumberFormat:
        """The number format."""
        return find_format(self.form.type)

    def steps(self) -> Tensor:
        """What a level is multiplied by, float32 [..., 1]."""
        return decode_scale(self.scale, self.tensor_scale)

    def levels(self, weights: Tensor) -> Tensor:
        """The nearest level of every weight, float32 [..., g]."""
        steps = self.steps()
        scaled = weights / torch.where(steps != 0, steps, torch.ones(()))
        if self.zero is not None:
            # The zero point is whole, so rounding before or after adding it is the same except for ties.
            return self.number.round(scaled + self.zero)
        return self.number.round(scaled)

    def values(self, levels: Tensor) -> Tensor:
        """What levels stand for, float32 [..., g]."""
        return (levels if self.zero is None else levels - self.zero) * self.steps()

    def nearest(self, weights: Tensor) -> Tensor:
        """The nearest value of the grid to every weight."""
        return self.values(self.levels(weights))


def tensor_scale_of(largest: float, form: WeightFormat) -> Tensor | None:
    """The scale of a whole tensor whose largest magnitude is given; None where the format has one level of scales.

    It is the reciprocal of a float32: checkpoints that hold that one (compressed-tensors) give it back to the bit.
    """
    if not form.two_level:
        return None
    scale = torch.tensor([largest / (find_format(form.type).highest * 448.0) or 1.0], dtype=torch.float32)
    return scale.clamp(min=2.0**-120).reciprocal().reciprocal()


def fit_grid(
    groups: Tensor,
    form: WeightFormat,
    *,
    tensor_scale: Tensor | None = None,
    search: int = 0,
    importance: Tensor | None = None,
    signed: bool = False,
) -> Grid:
    """Choose scales and zero points.

    Args:
        groups: float32 [..., g]; the last dimension shares a scale.
        form: what they are stored as.
        tensor_scale: of the whole tensor, for two-level scales.
        search: how many ranges to try besides the full one; 0 takes the full one.
        importance: float32, broadcastable to `groups`: weight of each squared error (diagonal of the Hessian).
        signed: let the search try negative scales as well, where the format has more levels below zero than above.
    """
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    best = _grid(groups, low, high, 1.0, form, tensor_scale)
    if not search:
        return best
    scale, zero = best.scale, best.zero
    error = _error(best, groups, importance)
    for tried in _candidates(groups, low, high, form, tensor_scale, search, signed):
        now = _error(tried, groups, importance)
        better = now < error
        error = torch.where(better, now, error)
        scale = torch.where(better, tried.scale.float(), scale.float()).to(scale.dtype)
        if zero is not None and tried.zero is not None:
            zero = torch.where(better, tried.zero, zero)
    return Grid(form, scale, zero, tensor_scale)


def _candidates(
    groups: Tensor,
    low: Tensor,
    high: Tensor,
    form: WeightFormat,
    tensor_scale: Tensor | None,
    search: int,
    signed: bool,
) -> Iterator[Grid]:
    """Grids of smaller ranges, and of such that end at the lowest level."""
    number = find_format(form.type)
    ends_low = signed and form.symmetric and -number.lowest > number.highest and form.scale in _SIGNED_SCALES
    for shrink in torch.linspace(1.0, _SMALLEST_RANGE, search + 1).tolist():
        if shrink < 1.0:
            yield _grid(groups, low, high, shrink, form, tensor_scale)
        if ends_low:
            step = torch.where(high > -low, high, low) * (shrink / number.lowest)
            yield Grid(form, SCALES[form.scale].round(step), None, None)


def _grid(
    groups: Tensor, low: Tensor, high: Tensor, shrink: float, form: WeightFormat, tensor_scale: Tensor | None
) -> Grid:
    """The grid of the range from low to high, shrunk."""
    number = find_format(form.type)
    if not form.symmetric:
        low, high = low.clamp(max=0.0) * shrink, high.clamp(min=0.0) * shrink
        scale = SCALES[form.scale].round((high - low) / (number.highest - number.lowest))
        steps = decode_scale(scale, None)
        zero = (number.lowest - low / torch.where(steps > 0, steps, torch.ones(()))).round()
        return Grid(form, scale, zero.clamp(number.lowest, number.highest).to(torch.int8), None)
    if form.type == "ternary":
        # The mean is the middle of what is worth trying: the search goes from twice the mean downwards.
        step = groups.abs().mean(-1, keepdim=True) * (1.0 if shrink == 1.0 else 2.4 * shrink)
    elif form.scale == "e8m0":
        step = torch.maximum(-low, high) * shrink / 2.0 ** math.floor(math.log2(number.highest))
    else:
        step = torch.maximum(-low, high) * shrink / number.highest
    if tensor_scale is not None:
        step = step / tensor_scale
    return Grid(form, SCALES[form.scale].round(step), None, tensor_scale)


def _error(grid: Grid, groups: Tensor, importance: Tensor | None) -> Tensor:
    """Squared error of rounding to nearest, summed over each group."""
    squared = (grid.nearest(groups) - groups).square_()
    return (squared if importance is None else squared * importance).sum(-1, keepdim=True)
