"""Refine a quantized weight: scales by least squares, levels by coordinate descent, in turn.

Rounding one channel after another never looks back. With all levels fixed, the scales of a row that make its error
`(w - q) H (w - q)^T` least solve a small linear system; with the scales and all other levels fixed, a channel's best
level is the nearest to `q_k + (H (w - q))_k / H_kk` (Behdin et al., "QuantEase", 2023). Each step can only make the
error less, up to the rounding of scales to their stored type; a row whose error grew keeps what it had.
"""

from __future__ import annotations

import torch
from torch import Tensor

from optcc.ir.formats import SCALES, decode_scale, find_format
from optcc.quant.rounding import PackedWeight, by_row, group_count
from optcc.recipe.schemes import WeightFormat

_BLOCK = 128  # channels between updates of the gradient of all others
_AT_ONCE = 1 << 24  # elements of the linear systems that are solved together


def refine(
    weight: Tensor, packed: PackedWeight, form: WeightFormat, hessian: Tensor, rounds: int
) -> PackedWeight:
    """A quantized weight of no more error in any row.

    Args:
        weight: [O, K], what it should stand for.
        packed: where to begin; zero points stay.
        form: of `packed`. Scales that several rows share, and powers of two, stay too.
        hessian: float32 [K, K], damped, positive on the diagonal.
        rounds: how often scales and levels are chosen in turn. A scale keeps its sign.
    """
    if not rounds:
        return packed
    state = _State(weight, packed, form, hessian)
    (levels, scale), error = state.copy(), state.error()
    for _ in range(rounds):
        if form.rows == 1 and form.scale != "e8m0":
            state.choose_scales()
        state.choose_levels()
        now = state.error()
        better = now < error
        error = torch.where(better, now, error)
        levels = torch.where(better, state.levels, levels)
        scale = torch.where(better, state.stored, scale)
    stored = scale.T.contiguous().to(packed.scale.dtype) if form.rows == 1 else packed.scale
    return PackedWeight(find_format(form.type).pack(levels.T), stored, packed.zero, packed.tensor_scale)


class _State:
    """Levels [K, O] and scales [groups, O] of a weight, channels first so that a channel lies in one piece."""

    def __init__(self, weight: Tensor, packed: PackedWeight, form: WeightFormat, hessian: Tensor) -> None:
        rows, width = weight.shape
        self.number, self.form, self.hessian = find_format(form.type), form, hessian
        self.weight = weight.to(torch.float32).T.contiguous()
        self.levels = self.number.unpack(packed.packed).T.contiguous()
        self.groups = group_count(width, form)
        self.size = width // self.groups
        self.tensor_scale = packed.tensor_scale
        self.stored = by_row(packed.scale.to(torch.float32), form, rows).T.contiguous()
        zero = packed.zero
        self.zero = None if zero is None else by_row(zero.to(torch.float32), form, rows).T.contiguous()

    def copy(self) -> tuple[Tensor, Tensor]:
        """Levels and stored scales as they are now."""
        return self.levels.clone(), self.stored.clone()

    def shifted(self) -> Tensor:
        """Levels without their zero points."""
        if self.zero is None:
            return self.levels
        return (self.levels.view(self.groups, self.size, -1) - self.zero[:, None]).flatten(0, 1)

    def steps(self) -> Tensor:
        """What levels are multiplied by."""
        return decode_scale(self.stored, self.tensor_scale)

    def values(self) -> Tensor:
        """What the levels stand for."""
        grouped = self.shifted().view(self.groups, self.size, -1)
        return (grouped * self.steps()[:, None]).flatten(0, 1)

    def error(self) -> Tensor:
        """Of every row."""
        error = self.weight - self.values()
        return (self.hessian @ error).mul_(error).sum(0)

    def choose_scales(self) -> None:
        """Least squares: `sum_h A_gh s_h = b_g` for every row, with `A_gh = l_g H_gh l_h` and `b_g = l_g (H w)_g`."""
        shifted, rows = self.shifted(), self.levels.shape[1]
        target = self._in_groups(shifted * (self.hessian @ self.weight))
        step = max(1, _AT_ONCE // self.groups**2)
        for first in range(0, rows, step):
            part = slice(first, first + step)
            levels = shifted[:, part]
            system = torch.empty(levels.shape[1], self.groups, self.groups)
            for g in range(self.groups):
                channels = slice(g * self.size, (g + 1) * self.size)
                product = self.hessian[:, channels] @ levels[channels]
                system[:, :, g] = self._in_groups(product.mul_(levels)).T
            diagonal = system.diagonal(dim1=1, dim2=2)
            diagonal += 1e-6 * diagonal.mean(1, keepdim=True) + 1e-20  # a group may be all zeros
            solved, failed = torch.linalg.solve_ex(system, target[:, part].T.unsqueeze(-1))
            scale = solved.squeeze(-1).T
            if self.tensor_scale is not None:
                scale = scale / self.tensor_scale
            usable = (scale * self.stored[:, part] > 0) & scale.isfinite() & (failed == 0)
            rounded = SCALES[self.form.scale].round(scale.nan_to_num()).to(torch.float32)
            self.stored[:, part] = torch.where(usable, rounded, self.stored[:, part])

    def choose_levels(self) -> None:
        """One sweep over the channels."""
        steps, values = self.steps(), self.values()
        divisors = torch.where(steps != 0, steps, torch.ones(()))
        gradient = self.hessian @ (self.weight - values)
        width, diagonal = len(values), self.hessian.diagonal()
        for begin in range(0, width, _BLOCK):
            end = min(begin + _BLOCK, width)
            near, moved = gradient[begin:end], torch.empty(end - begin, values.shape[1])
            for i, k in enumerate(range(begin, end)):
                group = k // self.size
                zero = 0.0 if self.zero is None else self.zero[group]
                wanted = (values[k] + near[i] / diagonal[k]) / divisors[group] + zero
                self.levels[k] = self.number.round(wanted)
                moved[i] = (self.levels[k] - zero) * steps[group] - values[k]
                near[i + 1 :].addr_(self.hessian[k, k + 1 : end], moved[i], alpha=-1)
            gradient[end:].addmm_(self.hessian[end:, begin:end], moved, alpha=-1)

    def _in_groups(self, channels: Tensor) -> Tensor:
        """Sums over the channels of each group, [groups, O]."""
        return channels.view(self.groups, self.size, -1).sum(1)
