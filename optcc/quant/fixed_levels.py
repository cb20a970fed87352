"""Scales under training while every weight keeps its level.

What an algorithm like GPTQ finds are levels that make up for each other's errors; a few that flip undo it. The scales
alone are a hundredth of the parameters, and with fixed levels their gradient is exact: nothing passes through rounding.
Source: Chen et al., "EfficientQAT", 2024, its end-to-end phase.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from optcc.ir.formats import find_format
from optcc.quant.learned_scale import LearnedScale, learned_scale
from optcc.quant.rounding import PackedWeight, from_groups, to_groups
from optcc.recipe.schemes import WeightFormat


@dataclass
class FixedLevels:
    """One weight whose scales are trained.

    Attributes:
        packed: as an algorithm made it.
        rows: O.
        levels: float16 [blocks, groups, elements], zero point taken off; exact in all formats.
        scale: its scales.
    """

    packed: PackedWeight
    rows: int
    levels: Tensor
    scale: LearnedScale

    def trained(self) -> dict[str, tuple[Tensor, float]]:
        """Tensors to train, and 1 as the size of a step: logarithms are relative already."""
        return {"log_scale": (self.scale.log, 1.0)} if self.scale.learns else {}

    def value(self) -> Tensor:
        """The weight [O, K], float32, with gradients to the scales."""
        return from_groups(self.levels * self.scale.steps(), self.rows, self.scale.form)

    def pack(self) -> PackedWeight:
        """The weight as it is stored; on the CPU."""
        return replace(self.packed, scale=self.scale.stored().squeeze(-1).cpu())


def fix_levels(packed: PackedWeight, rows: int, form: WeightFormat, device: torch.device) -> FixedLevels:
    """A packed weight [O, K] whose scales are to be trained."""
    number = find_format(form.type)
    levels = to_groups(number.unpack(packed.packed), form)
    if packed.zero is not None:
        levels = levels - packed.zero.unsqueeze(-1)
    return FixedLevels(packed, rows, levels.to(device, torch.float16), learned_scale(packed, form, device))
