"""Ranges of activations and the grids over them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from optcc.ir.ops.quantized import dequantize, quantize_static
from optcc.passes.quantize.static import fit_bias
from optcc.quant.ranges import ActivationGrid, Seen, choose_grid
from optcc.quant.rounding import round_to_nearest
from optcc.recipe.schemes import WeightFormat

BOUNDS = st.floats(0.0, 1e4, allow_subnormal=False)


def rounded(grid: ActivationGrid, x: Tensor) -> Tensor:
    """Values on the grid, by the operators."""
    step = torch.tensor([grid.step])
    zero = None if grid.zero is None else torch.tensor([grid.zero], dtype=torch.int8)
    return dequantize(quantize_static(x, step, zero, "int8"), step, zero, None, "int8", 0, 1, torch.float32)


def seen(values: Tensor) -> Seen:
    """A histogram of values."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    return Seen(low, high, torch.histc(values, 2048, low, high).double())


@given(BOUNDS, BOUNDS, st.booleans())
def test_a_grid_holds_its_range_and_zero(below: float, above: float, symmetric: bool) -> None:
    grid = ActivationGrid.of(-below, above, symmetric)
    x = torch.linspace(-below, above, 101)
    torch.testing.assert_close(rounded(grid, x), x, rtol=1e-5, atol=grid.step * 0.501 + 1e-30)
    assert rounded(grid, torch.zeros(1)).item() == 0.0


@given(BOUNDS, st.floats(0.0, 2e4), st.booleans())
def test_a_clamp_that_goes_changes_nothing(high: float, bound: float, symmetric: bool) -> None:
    for low in (0.0, -high):
        grid = ActivationGrid.of(low, high, symmetric)
        x = torch.linspace(-2 * high - 1, 2 * high + 1, 201)
        for limits in ((0.0, math.inf), (0.0, bound), (-bound, bound), (-math.inf, bound)):
            if grid.clamps(*limits):
                assert torch.equal(rounded(grid, x), rounded(grid, x.clamp(*limits)))


def test_a_relu_and_a_relu6_go() -> None:
    for high in (0.1, 5.9, 6.0):
        grid = ActivationGrid.of(0.0, high, symmetric=False)
        assert grid.clamps(0.0, 6.0)
        assert grid.clamps(0.0, math.inf)
    assert not ActivationGrid.of(-1.0, 6.0, symmetric=False).clamps(0.0, 6.0)
    assert not ActivationGrid.of(0.0, 8.0, symmetric=False).clamps(0.0, 6.0)
    assert not ActivationGrid.of(0.0, 6.0, symmetric=True).clamps(0.0, math.inf)


def test_an_outlier_widens_only_the_full_range() -> None:
    values = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    values[0] = 50.0
    grids = {m: choose_grid(seen(values), m, 99.99, False) for m in ("max", "percentile", "mse")}
    errors = {m: float((rounded(g, values) - values).square().mean()) for m, g in grids.items()}
    assert grids["max"].step > 5 * grids["percentile"].step
    assert errors["mse"] < min(errors["max"], errors["percentile"])
    # 0.005 % on each side: about 3.9 standard deviations.
    assert 7.0 < grids["percentile"].step * 255 < 8.5


def test_a_value_that_never_moves() -> None:
    for method in ("max", "percentile", "mse"):
        grid = choose_grid(Seen(0.0, 0.0, torch.zeros(2048)), method, 99.9, False)
        assert rounded(grid, torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("size", [0.0, 1e-20, 1e-3])
def test_a_bias_fits_the_sum_of_products(size: float) -> None:
    """Of a channel of tiny weights too: b / (step * scale) stays far from 2^31."""
    rows = torch.tensor([[0.5, -1.0], [size, -size / 2]])
    bias = torch.tensor([1.0, 100.0])
    packed = fit_bias(rows, round_to_nearest(rows, WeightFormat("int8", 0)), bias, 0.01)
    assert bool((bias / (0.01 * packed.scale.flatten()) <= 2.0**24 * 1.001).all())
    wide = dequantize(packed.packed, packed.scale, None, None, "int8", 0, 1, torch.float32)
    torch.testing.assert_close(wide, rows, rtol=0, atol=1e-2)
    assert torch.equal(packed.packed[0], round_to_nearest(rows, WeightFormat("int8", 0)).packed[0])
