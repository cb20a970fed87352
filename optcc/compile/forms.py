"""Is every weight stored, and every input rounded, as its scheme says? Bytes can agree where formats don't."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import fx

from optcc.errors import ExportRefused, LedgerMismatch
from optcc.export.stored import stored_weights
from optcc.ir.module import Module
from optcc.ir.ops.quantized import PARTS
from optcc.ir.pattern import normalized
from optcc.recipe.schemes import Scheme


def require_forms(module: Module, schemes: Iterable[Scheme], path: Path) -> None:
    """Read off the final graph what each quantized weight is stored as and how its linears round what they read.

    Weights that no scheme of the recipe is named for, such as a quantized checkpoint's, are what they are.

    Args:
        module: final.
        schemes: of the recipe.
        path: the weight file, for the message.

    Raises:
        LedgerMismatch: naming the first weight that is not as its scheme says, or that is read with the scales of
            another.
    """
    for node in module.nodes():
        _require_own_parts(node, path)
    by_name = {scheme.name: scheme for scheme in schemes}
    labels = module.attrs.get("schemes")
    try:
        stored = stored_weights(module)
    except ExportRefused:  # convolutions, and what else has no linear's form
        return
    for weight in stored:
        label = labels.get(weight.held) if isinstance(labels, dict) else None
        scheme = by_name.get(str(label))
        if scheme is None:
            continue
        rounding = weight.rounding.form if weight.rounding else None
        if weight.form != scheme.weight:
            what = f"is stored as {weight.form}, its scheme {scheme.name} says {scheme.weight}"
        elif weight.linear and rounding != scheme.activation:
            what = f"reads inputs rounded as {rounding}, its scheme {scheme.name} says {scheme.activation}"
        else:
            continue
        raise LedgerMismatch(f"{weight.name} {what}", where=str(path))


_FIRST = {
    torch.ops.optcc.dequantize.default: 0,
    torch.ops.optcc.quantized_linear.default: 1,
    torch.ops.optcc.quantized_embedding.default: 1,
}
"""Where an operator's operands `packed`, `scale`, `zero` and `tensor_scale` begin."""


def _require_own_parts(node: fx.Node, path: Path) -> None:
    """All that an operator reads of a quantized weight must be parts of the same one."""
    if node.target not in _FIRST:
        return
    first = _FIRST[node.target]
    operands = normalized(node)[0][first : first + len(PARTS)]
    if operands[0].op != "get_attr":  # computed, not stored
        return
    weight = str(operands[0].target).removesuffix(".packed")
    for part, operand in zip(PARTS, operands, strict=True):
        if operand is not None and str(operand.target) != f"{weight}.{part}":
            raise LedgerMismatch(f"%{node.name} reads {weight} with {operand.target}", where=str(path))
