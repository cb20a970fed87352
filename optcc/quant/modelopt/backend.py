"""Our rounding as a backend of modelopt's quantizers, for formats it can't round to on a CPU.

modelopt's NVFP4 and MX formats need its CUDA extension, and it has no zero points; a registered backend replaces the
rounding alone, so that its algorithms work with these formats too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from optcc.quant.grid import fit_grid
from optcc.quant.rounding import from_groups, tensor_scale, to_groups
from optcc.recipe.schemes import WeightFormat

BACKEND = "optcc"


def register() -> None:
    """Make the backend known to modelopt; doing it twice is the same as once."""
    from modelopt.torch.quantization.nn.modules.tensor_quantizer import (
        is_registered_quant_backend,
        register_quant_backend,
    )

    if not is_registered_quant_backend(BACKEND):
        register_quant_backend(BACKEND, _entry)


def _entry(inputs: Tensor, quantizer: Any) -> Tensor:
    """What modelopt calls: the values rounded, in their type; `quantizer` is its TensorQuantizer."""
    form = WeightFormat(**quantizer.backend_extra_args)
    return fake_quantize(inputs, form, getattr(quantizer, "_amax", None))


def fake_quantize(weight: Tensor, form: WeightFormat, amax: Tensor | None) -> Tensor:
    """Weights rounded to a format: what a packed weight dequantizes to.

    Args:
        weight: [O, K], or [O*K/g, g] as modelopt lays out groups.
        form: the format.
        amax: largest magnitudes, broadcastable to `weight`: what is beyond is clipped before scales are chosen.
    """
    clipped = weight.float() if amax is None else clip(weight.float(), amax)
    here = replace(form, group=0) if form.group == weight.shape[-1] else form
    groups = to_groups(clipped, here)
    grid = fit_grid(groups, here, tensor_scale=tensor_scale(clipped, here))
    return from_groups(grid.nearest(groups), len(weight), here).to(weight.dtype)


def clip(weight: Tensor, amax: Tensor) -> Tensor:
    """Values within plus and minus `amax`."""
    return weight.clamp(-amax, amax)
