"""compare_rows against closed forms and against the definition in float64."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optcc.accuracy.metrics import (
    DoubleArray,
    FloatArray,
    IntArray,
    Sums,
    compare_rows,
    join_rows,
    matching_prefix,
    sum_rows,
)


def reference(a: FloatArray, b: FloatArray, t: IntArray) -> tuple[DoubleArray, DoubleArray, DoubleArray]:
    """KL, NLL of the original, NLL of the artifact: by definition, all in float64."""

    def log_softmax(x: FloatArray) -> DoubleArray:
        y = x.astype(np.float64) - x.max(axis=1, keepdims=True)
        result: DoubleArray = y - np.log(np.exp(y).sum(axis=1, keepdims=True))
        return result

    p, q = log_softmax(a), log_softmax(b)
    at = np.arange(len(t))
    return (np.exp(p) * (p - q)).sum(axis=1), -p[at, t], -q[at, t]


def logits(seed: int, rows: int, vocab: int, scale: float) -> tuple[FloatArray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    return (scale * rng.standard_normal((rows, vocab))).astype(np.float32), rng


def test_equal_logits_give_exactly_zero() -> None:
    a, rng = logits(0, 40, 3001, 4.0)
    rows = compare_rows(a, a.copy(), rng.integers(0, 3001, 40))
    assert (rows.kl == 0.0).all()
    assert (rows.nll_original == rows.nll_artifact).all()
    assert rows.agree.all()


def test_two_known_distributions() -> None:
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.1, 0.6, 0.3])
    rows = compare_rows(
        np.log(p)[None].astype(np.float32), np.log(q)[None].astype(np.float32) + 7, np.array([1])
    )
    assert rows.kl[0] == pytest.approx(float((p * np.log(p / q)).sum()), abs=1e-6)
    assert rows.nll_original[0] == pytest.approx(-math.log(0.25), abs=1e-6)
    assert rows.nll_artifact[0] == pytest.approx(-math.log(0.6), abs=1e-6)
    assert not rows.agree[0]


def test_uniform_against_certain_is_the_log_of_the_vocabulary() -> None:
    original = np.full((1, 1000), -200.0, np.float32)
    original[0, 3] = 0.0
    rows = compare_rows(original, np.zeros((1, 1000), np.float32), np.array([3]))
    assert rows.kl[0] == pytest.approx(math.log(1000), abs=1e-5)
    assert rows.nll_artifact[0] == pytest.approx(math.log(1000), abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 9),
    vocab=st.integers(2, 1200),
    scale=st.sampled_from([0.1, 2.0, 10.0]),
    noise=st.sampled_from([1e-3, 0.02, 0.1, 1.0, 10.0, 60.0]),
    offset=st.sampled_from([0.0, 0.3, -20.0]),
)
def test_agrees_with_the_definition(
    seed: int, rows: int, vocab: int, scale: float, noise: float, offset: float
) -> None:
    a, rng = logits(seed, rows, vocab, scale)
    b = (a + noise * rng.standard_normal(a.shape) + offset).astype(np.float32)
    t = rng.integers(0, vocab, rows)
    kl, nll_a, nll_b = reference(a, b, t)
    got = compare_rows(a, b, t)
    np.testing.assert_allclose(got.kl, kl, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(got.nll_original, nll_a, rtol=1e-6, atol=2e-6)
    np.testing.assert_allclose(got.nll_artifact, nll_b, rtol=1e-5, atol=1e-5)
    assert (got.kl >= 0.0).all()
    assert (got.agree == (a.argmax(1) == b.argmax(1))).all()


def test_small_differences_are_measured_not_lost_in_rounding() -> None:
    a, rng = logits(5, 8, 20_000, 3.0)
    b = a + (1e-4 * rng.standard_normal(a.shape)).astype(np.float32)
    t = rng.integers(0, 20_000, 8)
    got = compare_rows(a, b, t)
    assert 1e-10 < got.kl.mean() < 1e-7
    np.testing.assert_allclose(got.kl, reference(a, b, t)[0], rtol=1e-4)


@pytest.mark.parametrize("step", [0.01, 0.12, 0.13])
def test_a_lopsided_difference_on_both_sides_of_the_series_bound(step: float) -> None:
    a = np.log(np.array([[0.9, 0.1]])).astype(np.float32)
    b = a + np.array([[0.0, step]], np.float32)
    t = np.array([1])
    np.testing.assert_allclose(compare_rows(a, b, t).kl, reference(a, b, t)[0], rtol=1e-4, atol=2e-9)


def test_a_large_common_offset_costs_no_precision() -> None:
    a = np.array([[0.0, 0.75]], np.float32)
    b = a + np.array([[1000.0, 1001.0]], np.float32)  # the mean difference is no float32 number
    t = np.array([0])
    got, (kl, _, nll) = compare_rows(a, b, t), reference(a, b, t)
    np.testing.assert_allclose(got.kl, kl, atol=1e-6)
    np.testing.assert_allclose(got.nll_artifact, nll, atol=2e-6)


def test_tokens_that_both_exclude_cost_nothing_and_those_only_the_artifact_excludes_cost_everything() -> None:
    a = np.array([[1.0, 2.0, -np.inf], [1.0, 2.0, 0.0]], np.float32)
    b = np.array([[1.0, 2.0, -np.inf], [1.0, 2.0, -np.inf]], np.float32)
    rows = compare_rows(a, b, np.array([0, 0]))
    assert rows.kl[0] == 0.0
    assert rows.kl[1] == math.inf
    assert rows.nonfinite == 1


@pytest.mark.parametrize("side", [0, 1])
def test_nan_is_never_hidden(side: int) -> None:
    both = [np.zeros((3, 10), np.float32), np.zeros((3, 10), np.float32)]
    both[side][1, 4] = np.nan
    rows = compare_rows(both[0], both[1], np.array([0, 0, 0]))
    assert np.isnan(rows.kl).tolist() == [False, True, False]
    assert rows.nonfinite == 1


def test_half_precision_logits_are_widened() -> None:
    a, rng = logits(1, 3, 50, 1.0)
    half = a.astype(np.float16)
    t = rng.integers(0, 50, 3)
    np.testing.assert_array_equal(
        compare_rows(half, a, t).kl,  # type: ignore[arg-type]
        compare_rows(half.astype(np.float32), a, t).kl,
    )


def test_result_does_not_depend_on_how_rows_are_cut() -> None:
    a, rng = logits(2, 50, 9000, 3.0)
    b = a + (0.2 * rng.standard_normal(a.shape)).astype(np.float32)
    t = rng.integers(0, 9000, 50)
    whole = compare_rows(a, b, t)
    parts = [compare_rows(a[s], b[s], t[s]) for s in (slice(0, 7), slice(7, 8), slice(8, 50))]
    np.testing.assert_allclose(join_rows(parts).kl, whole.kl, rtol=1e-6)
    merged = sum((sum_rows(p) for p in parts), Sums())
    assert merged.rows == 50
    assert merged.agree == int(whole.agree.sum())
    assert merged.kl == pytest.approx(sum_rows(whole).kl, rel=1e-6)


def test_shapes_are_checked() -> None:
    a = np.zeros((2, 5), np.float32)
    with pytest.raises(ValueError, match="differ in shape"):
        compare_rows(a, np.zeros((2, 6), np.float32), np.array([0, 0]))
    with pytest.raises(ValueError, match="targets"):
        compare_rows(a, a, np.array([0]))


def test_memory_of_a_large_window_is_a_few_blocks() -> None:
    a = np.zeros((512, 49152), np.float32)
    a[:, 7] = 1.0
    b = a.copy()
    tracemalloc.start()
    try:
        compare_rows(a, b, np.zeros(512, np.int64))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16e6


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ([1, 2, 3], [1, 2, 3], (3, 3)),
        ([1, 2, 3], [1, 9, 3], (1, 3)),
        ([1, 2], [1, 2, 3, 4], (2, 4)),
        ([], [], (0, 0)),
        ([], [5], (0, 1)),
    ],
)
def test_matching_prefix(left: list[int], right: list[int], expected: tuple[int, int]) -> None:
    assert matching_prefix(left, right) == expected
