"""Orthogonal matrices: exactly Hadamard where known, orthogonal always, the same for the same seed."""

from __future__ import annotations

import pytest
import torch

from optcc.quant.orthogonal import draw_rotation, hadamard

# Widths of known models, and every kind of core: 1, Paley's first (72, 200), Paley's second (28, 36).
_KNOWN = (1, 2, 4, 12, 20, 28, 36, 64, 128, 576, 768, 896, 960, 1024, 1152, 1600, 2048, 2560)


@pytest.mark.parametrize("order", _KNOWN)
def test_hadamard(order: int) -> None:
    table = hadamard(order)
    assert table is not None
    assert bool((table.abs() == 1).all())
    assert torch.equal(table @ table.T, order * torch.eye(order, dtype=torch.float64))


@pytest.mark.parametrize("order", [3, 6, 7, 92, 100])
def test_unknown_orders(order: int) -> None:
    """There is a matrix of order 92, but neither construction finds it."""
    assert hadamard(order) is None
    with pytest.raises(ValueError, match=str(order)):
        draw_rotation(order, 0, "hadamard")
    assert draw_rotation(order, 0).kind == "random"


@pytest.mark.parametrize(("width", "kind"), [(64, "hadamard"), (64, "random"), (30, "auto")])
def test_rotation(width: int, kind: str) -> None:
    first, again, other = (draw_rotation(width, seed, kind) for seed in (3, 3, 4))
    assert torch.equal(first.matrix, again.matrix)
    assert not torch.allclose(first.matrix, other.matrix)
    eye = torch.eye(width, dtype=torch.float64)
    assert torch.allclose(first.matrix @ first.matrix.T, eye, atol=1e-12)


def test_unknown_kind() -> None:
    with pytest.raises(ValueError, match="hadamard"):
        draw_rotation(8, 0, "haar")
