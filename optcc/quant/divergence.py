"""KL divergence of changed logits from the original's, in nats per row, exact down to 1e-9.

With p the original's distribution, d the difference of the logits and c = d - E_p[d],

    KL(original || changed) = log E_p[e^c] = log(1 + E_p[e^c - 1 - c])

The last form doesn't subtract nearly equal numbers: one weight in 8 bits moves the logits by 1e-3 and the KL by 1e-6.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_ELEMENTS_AT_ONCE = 1 << 21  # the temporaries of some rows stay in the caches


class Reference:
    """The original's logits, to hold others against.

    Args:
        logits: float [T, V] for every batch; kept in float32.
    """

    def __init__(self, logits: Sequence[Tensor]) -> None:
        self.logits = [part.float() for part in logits]
        self.normalisers = [part.logsumexp(-1, keepdim=True) for part in self.logits]

    def divergences(self, logits: Sequence[Tensor]) -> Tensor:
        """KL(original || changed) of every row of all batches, float64 [rows] in nats."""
        found = []
        for own, normaliser, changed in zip(self.logits, self.normalisers, logits, strict=True):
            step = max(1, _ELEMENTS_AT_ONCE // own.shape[-1])
            for first in range(0, len(own), step):
                part = slice(first, first + step)
                found.append(_divergence(own[part], normaliser[part], changed[part].float()))
        return torch.cat(found)

    def mean(self, logits: Sequence[Tensor]) -> float:
        """The mean over all rows."""
        return float(self.divergences(logits).mean())


def _divergence(own: Tensor, normaliser: Tensor, changed: Tensor) -> Tensor:
    """f64[n] from logits f32[n, V] of both and the original's log normaliser [n, 1]."""
    p = (own - normaliser).exp_()
    c = changed - own
    c -= (p * c).sum(-1, keepdim=True)
    rest = c.expm1().sub_(c).mul_(p).sum(-1, dtype=torch.float64)
    if bool(rest.isfinite().all()):
        return rest.log1p_()
    left, right = own.double().log_softmax(-1), changed.double().log_softmax(-1)
    return (left.exp() * (left - right)).sum(-1)
