"""Weights under quantization-aware training: what is trained, and how it is rounded on the way.

A latent weight w and the scale s of its group make `s * (round(w / s + z) - z)`. Rounding has no useful derivative, so
the gradient of w passes straight through, except where the level is clipped. The scale's gradient is that of learned
step size quantization: `round(v) - v` within the range, the outermost level beyond, with `v = w / s` (Esser et al.,
"Learned Step Size Quantization", 2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optcc.ir.formats import NumberFormat, decode_scale, find_format
from optcc.quant.learned_scale import LearnedScale, learned_scale
from optcc.quant.rounding import PackedWeight, from_groups, pack_levels, to_groups
from optcc.recipe.schemes import WeightFormat

_EDGE = 0.49  # of a step: as far from its level as a latent weight may start


class _Round(torch.autograd.Function):
    """Levels times scale; gradients as the module's docstring says."""

    @staticmethod
    def forward(ctx: Any, groups: Tensor, steps: Tensor, zero: Tensor | None, number: NumberFormat) -> Tensor:
        ctx.save_for_backward(groups, steps, zero)
        ctx.number = number
        levels = number.round(_scaled(groups, steps, zero))
        return (levels if zero is None else levels.sub_(zero)).mul_(steps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        groups, steps, zero = ctx.saved_tensors
        number: NumberFormat = ctx.number
        grad = grads[0]
        scaled = _scaled(groups, steps, zero)
        # Half a step beyond the outermost level, values still round to it as to any other.
        inside = (scaled >= number.lowest - 0.5) & (scaled <= number.highest + 0.5)
        to_weights = grad * inside
        to_steps = None
        if ctx.needs_input_grad[1]:
            slope = number.round(scaled)
            shift = torch.zeros((), device=scaled.device) if zero is None else zero.to(torch.float32)
            slope -= torch.where(inside, scaled, shift)
            to_steps = (slope * grad).sum(-1, keepdim=True)
        return to_weights, to_steps, None, None


def _scaled(groups: Tensor, steps: Tensor, zero: Tensor | None) -> Tensor:
    """Weights in steps, as `Grid.levels` has them before rounding."""
    scaled = groups / torch.where(steps != 0, steps, torch.ones((), device=steps.device))
    return scaled if zero is None else scaled + zero


@dataclass
class Latent:
    """One weight under training.

    Attributes:
        rows: O.
        groups: float32 [blocks, groups, elements], trained.
        scale: its scales, trained.
    """

    rows: int
    groups: Tensor
    scale: LearnedScale

    def trained(self) -> dict[str, tuple[Tensor, float]]:
        """Tensors to train, and what their learning rates are relative to: the mean step, and 1 for logarithms."""
        found = {"groups": (self.groups, self.scale.mean_step())}
        return {**found, "log_scale": (self.scale.log, 1.0)} if self.scale.learns else found

    def value(self) -> Tensor:
        """The rounded weight [O, K], float32, with gradients to weights and scales."""
        form = self.scale.form
        rounded = _Round.apply(self.groups, self.scale.steps(), self.scale.zero, find_format(form.type))  # type: ignore[no-untyped-call]
        return from_groups(rounded, self.rows, form)

    def pack(self) -> PackedWeight:
        """The weight as it is stored; on the CPU."""
        grid = self.scale.grid()
        levels = grid.levels(self.groups.detach().cpu())
        return pack_levels(from_groups(levels, self.rows, self.scale.form), grid)


def make_latent(weight: Tensor, packed: PackedWeight, form: WeightFormat, device: torch.device) -> Latent:
    """The latent weight of a packed one: it rounds to the same levels, and is as near to the original as that allows.

    Args:
        weight: the original [O, K].
        packed: what an algorithm made of it.
        form: as packed.
        device: where it is trained.
    """
    number = find_format(form.type)
    scale = packed.scale.unsqueeze(-1)
    zero = None if packed.zero is None else packed.zero.unsqueeze(-1)
    steps = decode_scale(scale, packed.tensor_scale)
    levels = to_groups(number.unpack(packed.packed), form)
    values = (levels if zero is None else levels - zero) * steps
    exact = to_groups(weight.to(torch.float32), form)
    edge = _EDGE * steps.abs()
    near = values + (exact - values).clamp(-edge, edge)
    groups = values
    for start in (near, exact):
        scaled = _scaled(start, steps, zero)
        inside = (scaled >= number.lowest - _EDGE) & (scaled <= number.highest + _EDGE)
        groups = torch.where((number.round(scaled) == levels) & inside, start, groups)
    trained = groups.contiguous().to(device).requires_grad_()
    return Latent(weight.shape[0], trained, learned_scale(packed, form, device))
