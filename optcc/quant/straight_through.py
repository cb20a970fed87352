"""Weights under quantization-aware training: what is trained, and how it is rounded on the way.

A latent weight w and the scale s of its group make `s * (round(w / s + z) - z)`. Rounding has no useful derivative, so
the gradient of w passes straight through, except where the level is clipped. The scale's gradient is that of learned
step size quantization: `round(v) - v` within the range, the outermost level beyond, with `v = w / s` (Esser et al.,
"Learned Step Size Quantization", 2020). The logarithm of a scale's magnitude is what is learned, so that steps are
relative; scales are rounded to their stored type in every forward pass, so what is trained is what is packed. Signs of
scales, zero points and scales of whole tensors stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optcc.ir.formats import SCALES, NumberFormat, decode_scale, find_format
from optcc.quant.grid import Grid
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
        form: what it is stored as.
        rows: O.
        groups: float32 [blocks, groups, elements], trained.
        log_scale: float32 [blocks, groups, 1], natural logarithm of the scale's magnitude, without the tensor's,
            trained.
        sign: float32 [blocks, groups, 1], the scale's sign.
        zero: int8 [blocks, groups, 1], or None.
        tensor_scale: float32 [1], or None.
    """

    form: WeightFormat
    rows: int
    groups: Tensor
    log_scale: Tensor
    sign: Tensor
    zero: Tensor | None
    tensor_scale: Tensor | None

    @property
    def learns_scale(self) -> bool:
        """Powers of two can't move in small steps."""
        return self.form.scale != "e8m0"

    def stored_scale(self) -> Tensor:
        """The scale as it is stored."""
        return SCALES[self.form.scale].round(self.sign * self.log_scale.detach().exp())

    def grid(self) -> Grid:
        """The grid that the weight is rounded to."""
        return Grid(self.form, self.stored_scale(), self.zero, self.tensor_scale)

    def value(self) -> Tensor:
        """The rounded weight [O, K], float32, with gradients to `groups` and `log_scale`."""
        steps = decode_scale(self.stored_scale(), self.tensor_scale)
        if self.learns_scale:
            exact = self.sign * self.log_scale.exp()
            if self.tensor_scale is not None:
                exact = exact * self.tensor_scale
            steps = exact + (steps - exact).detach()
        rounded = _Round.apply(self.groups, steps, self.zero, find_format(self.form.type))  # type: ignore[no-untyped-call]
        return from_groups(rounded, self.rows, self.form)

    def pack(self) -> PackedWeight:
        """The weight as it is stored; on the CPU."""
        zero, whole = (None if t is None else t.cpu() for t in (self.zero, self.tensor_scale))
        grid = Grid(self.form, self.stored_scale().cpu(), zero, whole)
        return pack_levels(from_groups(grid.levels(self.groups.detach().cpu()), self.rows, self.form), grid)

    def mean_step(self) -> float:
        """Mean distance of two levels: the unit of the learning rate."""
        return float(decode_scale(self.stored_scale(), self.tensor_scale).abs().mean())


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
    tiny = torch.finfo(torch.float32).tiny
    stored = scale.to(torch.float32)
    log_scale = stored.abs().clamp(min=tiny).log()
    made = Latent(
        form,
        weight.shape[0],
        groups.contiguous().to(device),
        log_scale.to(device),
        torch.where(stored < 0, -1.0, 1.0).to(device),
        None if zero is None else zero.to(device),
        None if packed.tensor_scale is None else packed.tensor_scale.to(device),
    )
    made.groups.requires_grad_()
    made.log_scale.requires_grad_(made.learns_scale)
    return made
