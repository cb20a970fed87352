"""What was written, read back with the front end's own reader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from optcc.errors import ExportRefused
from optcc.export.stored import StoredWeight
from optcc.frontend.quantized import find_quantized
from optcc.ir.module import Module
from optcc.ir.ops.quantized import PARTS


def compare(directory: Path, module: Module, weights: Sequence[StoredWeight]) -> int:
    """Hold every packed weight of a checkpoint against the module's, to the bit; returns how many there are.

    One weight is in memory at a time.

    Raises:
        ExportRefused: one differs or is missing. That is a bug of optcc.
    """
    found = {f"{item.module}.weight": item for item in find_quantized(directory)} if weights else {}
    for weight in weights:
        item = found.get(weight.name)
        if item is None:
            raise _differs(weight, "is not there")
        layout = (item.format, item.group, item.rows, item.shape)
        if layout != (weight.form.type, weight.form.group, weight.form.rows, (weight.rows, weight.width)):
            raise _differs(weight, f"is {layout}")
        parts = item.read()
        for name in PARTS:
            if not _equal(getattr(parts, name), weight.part(module, name)):
                raise _differs(weight, f"has another {name}")
        given, rule = weight.rounding, item.activation
        wanted = given and (given.form.type, given.form.group, given.form.scale, given.form.static)
        if (rule and (rule.format, rule.group, rule.scale, rule.static)) != wanted:
            raise _differs(weight, "rounds its input in another way")
        scale = module.weights[given.scale].float() if given and given.scale else None
        if not _equal(parts.input_scale, scale):
            raise _differs(weight, "has another scale of its input")
    return len(weights)


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    same = a.dtype == b.dtype and a.numel() == b.numel()
    return same and torch.equal(_bytes(a), _bytes(b))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _differs(weight: StoredWeight, how: str) -> ExportRefused:
    return ExportRefused(
        f"{weight.name}, read back from the checkpoint, {how}",
        hint="this is a bug of optcc; please report it with the scheme of the weight",
    )
