"""The range of least squared error for values of which a histogram is known."""

from __future__ import annotations

import torch
from torch import Tensor

from optcc.ir.formats import find_format

_CANDIDATES = 256
_SMALLEST = 1 / 16


def least_error(counts: Tensor, edges: Tensor, type: str) -> float:
    """The largest magnitude to represent, such that the squared error of rounding and clipping is least.

    modelopt 0.47 has this too, but hands its rounding function the number of bits in place of a bias, so that what it
    finds is of no use.

    Args:
        counts: [n], of magnitudes between edges.
        edges: [n + 1], ascending from 0.
        type: number format; symmetric.
    """
    number = find_format(type)
    counts, edges = counts.double(), edges.double()
    centers = (edges[1:] + edges[:-1]) / 2
    largest = float(edges[-1])
    # The largest value is at the edge of its bin, not at the center.
    centers[-1] = largest
    tried = torch.linspace(1.0, _SMALLEST, _CANDIDATES).double() * largest
    errors = []
    for amax in tried.tolist():
        step = amax / number.highest
        back = number.round((centers / step).float()).double() * step
        errors.append(float(((back - centers).square() * counts).sum()))
    return float(tried[errors.index(min(errors))])
