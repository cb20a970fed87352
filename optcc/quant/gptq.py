"""GPTQ: round one input channel after another, and let the channels that are still free make up for the error.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (2022). For inputs X
[tokens, K] of a linear, H = X^T X / tokens says what a change of its weight does to the output: `|X(W - Q)^T|^2 =
tokens * tr((W - Q) H (W - Q)^T)`. With the upper Cholesky factor U of the inverse of H, rounding channel k with error e
changes the channels after it by `-(e / U_kk) U_k,k+1..`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from optcc.quant.grid import Grid, fit_grid
from optcc.quant.rounding import PackedWeight, by_row, pack_levels, tensor_scale, to_groups, unpacked
from optcc.recipe.schemes import WeightFormat

_BLOCK = 128  # channels between updates of all that follow
_DAMP_TRIES = 8


def hessian(inputs: Iterable[Tensor], width: int) -> Tensor:
    """X^T X / tokens, float32 [K, K], of inputs [..., K] of any floating type, one batch after another."""
    total = torch.zeros(width, width)
    tokens = 0
    for batch in inputs:
        x = batch.reshape(-1, width).to(torch.float32)
        total.addmm_(x.T, x)
        tokens += len(x)
    return total / max(tokens, 1)


@dataclass(frozen=True)
class Factor:
    """What all weights that read the same input share.

    Attributes:
        hessian: float32 [K, K], damped.
        order: i64 [K], the channels in the order in which they are rounded; groups stay together.
        inverse: float32 [K, K], upper Cholesky factor of the hessian's inverse, rows and columns in that order.
        damp: what was added to the diagonal, relative to its mean.
    """

    hessian: Tensor
    order: Tensor
    inverse: Tensor
    damp: float


def factorize(hessian: Tensor, group: int, *, damp: float = 0.01, act_order: bool = True) -> Factor:
    """Damp a hessian and factorize its inverse.

    Channels without any input get the mean of the diagonal: they are rounded to nearest. Where the matrix can't be
    factorized, damping grows tenfold until it can.

    Args:
        hessian: float32 [K, K]; not changed.
        group: channels that share a scale; 0 for all.
        damp: added to the diagonal, relative to its mean.
        act_order: round groups with the largest inputs first, and in a group the largest channels.
    """
    width = len(hessian)
    diagonal = hessian.diagonal()
    mean = float(diagonal.mean()) or 1.0
    order = _activation_order(diagonal, group or width) if act_order else torch.arange(width)
    for _ in range(_DAMP_TRIES):
        damped = hessian.clone()
        damped.diagonal().copy_(torch.where(diagonal > 0, diagonal, mean) + damp * mean)
        inverse = _inverse_factor(damped[order][:, order])
        if inverse is not None:
            return Factor(damped, order, inverse, damp)
        damp = max(damp, 1e-3) * 10
    # Inputs that aren't numbers: nothing is known, so everything counts the same, which is rounding to nearest.
    return Factor(torch.eye(width), torch.arange(width), torch.eye(width), damp)


def _activation_order(diagonal: Tensor, group: int) -> Tensor:
    """Channels by their mean square, largest first; groups, by theirs, stay together so that the layout is kept."""
    grouped = diagonal.view(-1, group)
    inside = grouped.argsort(dim=-1, descending=True, stable=True)
    first = grouped.mean(-1).argsort(descending=True, stable=True)
    return (inside + torch.arange(len(grouped))[:, None] * group)[first].flatten()


def _inverse_factor(matrix: Tensor) -> Tensor | None:
    """The upper U with U^T U = matrix^-1, or None.

    With the matrix reversed in both dimensions as L L^T, U is the inverse of L, reversed: one factorization instead of
    two, and the inverse itself is never formed.
    """
    lower, failed = torch.linalg.cholesky_ex(matrix.flip(0, 1))
    if int(failed):
        return None
    inverse = torch.linalg.solve_triangular(lower, torch.eye(len(matrix)), upper=False).flip(0, 1)
    return inverse.contiguous() if bool(inverse.isfinite().all()) else None


def gptq(
    weight: Tensor, factor: Factor, form: WeightFormat, *, search: int = 0, signed: bool = False
) -> PackedWeight:
    """Quantize a weight.

    A group's grid is chosen when its first channel is reached, for the weights as they are by then.

    Args:
        weight: [O, K], any floating type; computed in float32.
        factor: of its input.
        form: number format, groups and scale type.
        search: ranges tried for each group besides the full one, errors weighted by the hessian's diagonal.
        signed: whether the search tries negative scales too (`optcc.quant.grid`).
    """
    rows, width = weight.shape
    group = form.group or width
    whole = tensor_scale(weight, form)
    importance = factor.hessian.diagonal()
    free = weight.to(torch.float32).T[factor.order].contiguous()  # [K, O]: a channel lies in one piece
    levels = torch.empty_like(free)
    grids: dict[int, Grid] = {}
    grid = None
    block = group if group == width else group * max(1, _BLOCK // group)
    for begin in range(0, width, _BLOCK if group == width else block):
        end = min(begin + (_BLOCK if group == width else block), width)
        inverse = factor.inverse[begin:end, begin:end]
        errors = torch.empty(end - begin, rows)
        for i, k in enumerate(range(begin, end)):
            if k % group == 0:
                channels = factor.order[k : k + group]
                shared = to_groups(free[k : k + group].T, _one_group(form))
                weights = to_groups(importance[channels].expand(form.rows or rows, group), _one_group(form))
                found = fit_grid(
                    shared, form, tensor_scale=whole, search=search, importance=weights, signed=signed
                )
                grids[int(channels[0]) // group] = found
                grid = _by_row(found, form, rows)
            assert grid is not None
            levels[factor.order[k]] = level = grid.levels(free[k])
            errors[i] = (free[k] - grid.values(level)) / inverse[i, i]
            free[k + 1 : end].addr_(inverse[i, i + 1 :], errors[i], alpha=-1)
        free[end:].addmm_(factor.inverse[begin:end, end:].T, errors, alpha=-1)
    return pack_levels(levels.T, _joined([grids[g] for g in range(width // group)]))


def _one_group(form: WeightFormat) -> WeightFormat:
    """The format of a slice of one group's channels: a whole row is one group."""
    return WeightFormat(form.type, 0, form.symmetric, form.scale, form.rows)


def _by_row(grid: Grid, form: WeightFormat, rows: int) -> Grid:
    """The grid of one group of channels, [blocks of rows, 1, 1], with a scale for every row, [O]."""

    def spread(each: Tensor) -> Tensor:
        return by_row(each.flatten(1), form, rows).flatten()

    return Grid(form, spread(grid.scale), None if grid.zero is None else spread(grid.zero), grid.tensor_scale)


def _joined(grids: list[Grid]) -> Grid:
    """The grids of all groups of channels in order, [blocks of rows, groups, 1]."""
    zeros = [g.zero for g in grids if g.zero is not None]
    scale = torch.cat([g.scale for g in grids], dim=1)
    return Grid(grids[0].form, scale, torch.cat(zeros, dim=1) if zeros else None, grids[0].tensor_scale)


def output_error(weight: Tensor, packed: PackedWeight, form: WeightFormat, hessian: Tensor) -> float:
    """How far a linear's result moves: `|X(W - Q)^T| / |X W^T|` (Frobenius) for inputs of this hessian."""
    wide = weight.to(torch.float32)
    error = wide - unpacked(packed, form)
    before, after = ((w @ hessian).mul_(w).sum(dtype=torch.float64) for w in (wide, error))
    return math.sqrt(max(float(after), 0.0) / float(before)) if float(before) > 0 else 0.0
