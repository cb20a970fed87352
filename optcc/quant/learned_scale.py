"""Scales of a packed weight under training.

The logarithm of a scale's magnitude is what is learned, so that steps are relative to it; scales are rounded to their
stored type in every forward pass, so what is trained is what is packed. Signs of scales, zero points and scales of
whole tensors stay, and so do powers of two, which can't move in small steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from optcc.ir.formats import SCALES, decode_scale
from optcc.quant.grid import Grid
from optcc.quant.rounding import PackedWeight
from optcc.recipe.schemes import WeightFormat


@dataclass
class LearnedScale:
    """The scales of one weight.

    Attributes:
        form: what the weight is stored as.
        log: float32 [blocks, groups, 1], natural logarithm of the magnitude without the tensor's scale, trained.
        sign: float32 [blocks, groups, 1].
        zero: int8 [blocks, groups, 1], or None.
        tensor_scale: float32 [1], or None.
    """

    form: WeightFormat
    log: Tensor
    sign: Tensor
    zero: Tensor | None
    tensor_scale: Tensor | None

    @property
    def learns(self) -> bool:
        """Whether there is anything to train."""
        return self.form.scale != "e8m0"

    def stored(self) -> Tensor:
        """As it is stored, [blocks, groups, 1]."""
        return SCALES[self.form.scale].round(self.sign * self.log.detach().exp())

    def steps(self) -> Tensor:
        """What a level is multiplied by, as stored, with the gradient of the unrounded scale."""
        steps = decode_scale(self.stored(), self.tensor_scale)
        if not self.learns:
            return steps
        exact = self.sign * self.log.exp()
        if self.tensor_scale is not None:
            exact = exact * self.tensor_scale
        return exact + (steps - exact).detach()

    def mean_step(self) -> float:
        """Mean distance of two levels."""
        return float(decode_scale(self.stored(), self.tensor_scale).abs().mean())

    def grid(self) -> Grid:
        """What weights are rounded to, on the CPU."""
        zero, whole = (None if t is None else t.cpu() for t in (self.zero, self.tensor_scale))
        return Grid(self.form, self.stored().cpu(), zero, whole)


def learned_scale(packed: PackedWeight, form: WeightFormat, device: torch.device) -> LearnedScale:
    """The scales of a packed weight, ready to train."""
    stored = packed.scale.unsqueeze(-1).to(torch.float32)
    made = LearnedScale(
        form,
        stored.abs().clamp(min=torch.finfo(torch.float32).tiny).log().to(device),
        torch.where(stored < 0, -1.0, 1.0).to(device),
        None if packed.zero is None else packed.zero.unsqueeze(-1).to(device),
        None if packed.tensor_scale is None else packed.tensor_scale.to(device),
    )
    made.log.requires_grad_(made.learns)
    return made
