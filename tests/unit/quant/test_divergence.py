"""KL of logits: against its definition in float64, and for differences that the definition loses in float32."""

from __future__ import annotations

import pytest
import torch

from optcc.quant.divergence import Reference


def _exact(own: torch.Tensor, changed: torch.Tensor) -> torch.Tensor:
    left, right = own.double().log_softmax(-1), changed.double().log_softmax(-1)
    return (left.exp() * (left - right)).sum(-1)


@pytest.mark.parametrize("size", [3.0, 1e-1, 1e-3, 1e-4])
def test_rows_are_the_definition(size: float) -> None:
    generator = torch.Generator().manual_seed(1)
    own = [torch.randn(n, 3000, generator=generator) * 4 for n in (5, 2)]
    changed = [x + size * torch.randn(x.shape, generator=generator) for x in own]
    found = Reference(own).divergences(changed)
    wanted = torch.cat([_exact(a, b) for a, b in zip(own, changed, strict=True)])
    # The definition itself is good to about 1e-14 in float64.
    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=1e-13)
    assert (found > 0).all()


def test_equal_logits_and_a_constant_more_are_zero() -> None:
    own = torch.randn(4, 100)
    assert Reference([own]).mean([own]) == 0.0
    assert Reference([own]).mean([own + 1.0]) < 1e-10


def test_differences_beyond_the_exponential_are_measured_too() -> None:
    own, changed = torch.zeros(1, 4), torch.tensor([[0.0, 0.0, 0.0, 500.0]])
    assert Reference([own]).mean([changed]) == pytest.approx(float(_exact(own, changed)))
