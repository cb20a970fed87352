"""Quantized blocks to floats and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optcc.ir.formats import find_format
from optcc.ir.ops.quantized import dequantize, quantize_activation
from optcc.runtime.executor import ModelSpec
from optcc.runtime.pools import pool_kinds, requantize


def test_pool_kinds_of_a_spec() -> None:
    plain = ModelSpec(2, 3, 64, 10, 16, 99, (0,), "float32")
    packed = ModelSpec(2, 3, 64, 10, 16, 99, (0,), "int8", "float16")
    assert [p.name for p in pool_kinds(plain)] == ["k_pool", "v_pool"]
    assert [(p.name, p.dtype, p.channels) for p in pool_kinds(packed)] == [
        ("k_pool", "int8", 64),
        ("v_pool", "int8", 64),
        ("k_scale_pool", "float16", 1),
        ("v_scale_pool", "float16", 1),
    ]
    assert (plain.block_bytes, packed.block_bytes) == (16 * 2 * 2 * 3 * 64 * 4, 16 * 2 * 2 * 3 * (64 + 2))
    assert ModelSpec.from_json(packed.to_json()) == packed


@pytest.mark.parametrize("kind", ["int8", "e4m3"])
@pytest.mark.parametrize("scale_type", ["float32", "float16"])
@given(seed=st.integers(0, 2**31), size=st.floats(1e-3, 1e3), width=st.sampled_from([1, 4, 64]))
def test_products_come_back_bit_for_bit(
    kind: str, scale_type: str, seed: int, size: float, width: int
) -> None:
    x = torch.randn(50, 3, width, generator=torch.Generator().manual_seed(seed)) * size
    x[0] = 0
    levels, scale = quantize_activation(x, kind, 0, scale_type, None)
    values = dequantize(levels, scale, None, None, kind, 0, 1, torch.float32).numpy()
    number = find_format(kind)
    found, steps = requantize(values, kind, scale_type, lambda v: number.round(torch.from_numpy(v)).numpy())
    assert steps.dtype == np.dtype(scale_type) and steps.shape == (50, 3, 1)
    np.testing.assert_array_equal(found * steps.astype(np.float32), values)


def test_other_values_are_rounded() -> None:
    values = np.random.default_rng(0).normal(size=(20, 2, 16)).astype(np.float32)
    levels, scale = requantize(values, "int8", "float32", np.rint)
    assert np.abs(levels).max() == 127
    assert (np.abs(levels * scale - values) <= 0.5001 * scale).all()
