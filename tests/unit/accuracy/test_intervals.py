"""Intervals: quantiles of t, coverage by simulation, determinism, edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from optcc.accuracy.intervals import (
    Estimate,
    exact,
    make_units,
    mean_estimate,
    quantile_estimate,
    ratio_estimate,
    t_quantile,
)


def t_tail(x: float, degrees: int) -> float:
    """P(|T| > x), by integrating the density (Simpson's rule on [0, x])."""
    n = 4000
    grid = np.linspace(0.0, x, 2 * n + 1)
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
    density = scale * (1 + grid**2 / degrees) ** (-(degrees + 1) / 2)
    weights = np.ones(2 * n + 1)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    return 1.0 - 2.0 * float((weights * density).sum()) * (x / (2 * n)) / 3


@pytest.mark.parametrize("degrees", [*range(1, 35), 60, 200, 5000])
def test_t_quantile(degrees: int) -> None:
    assert t_tail(t_quantile(degrees), degrees) == pytest.approx(0.05, abs=2e-5)


def test_units_are_windows_or_eighths_of_few_windows() -> None:
    assert make_units([[511] * 5, [511] * 4]).starts.tolist() == [511 * i for i in range(9)]
    few = make_units([[16, 3]])
    assert few.blocks
    assert few.starts.tolist() == [0, 2, 4, 6, 8, 10, 12, 14, 16, 17, 18]
    assert not make_units([[1, 1]]).blocks  # nothing to cut


@pytest.mark.parametrize(("windows", "runs"), [(5, 800), (16, 800), (40, 250)])
def test_mean_covers_the_truth_in_95_of_100(windows: int, runs: int) -> None:
    rng = np.random.default_rng(windows)
    units = make_units([[20] * windows])
    hits = 0
    for _ in range(runs):
        # Correlated within a window, as tokens are: rows alone would give far too narrow an interval.
        rows = rng.normal(1.0, 1.0, (windows, 1)) + rng.normal(0.0, 1.0, (windows, 20))
        e = mean_estimate(rows.ravel(), units)
        hits += e.low <= 1.0 <= e.high
    assert 0.92 <= hits / runs <= 0.975


def test_skewed_values_are_covered_about_as_often() -> None:
    rng = np.random.default_rng(9)
    units = make_units([[50] * 16])
    hits = 0
    for _ in range(600):
        rows = rng.lognormal(0.0, 1.0, 800)  # like KL: most rows small, few large
        e = mean_estimate(rows, units)
        hits += e.low <= math.exp(0.5) <= e.high
    assert 0.90 <= hits / 600 <= 0.98


def test_quantile_covers_the_truth() -> None:
    rng = np.random.default_rng(3)
    units = make_units([[100] * 16])
    hits = 0
    for _ in range(40):
        e = quantile_estimate(rng.exponential(1.0, 1600), 0.9, units)
        hits += e.low <= math.log(10.0) <= e.high
    assert hits >= 34


def test_texts_are_strata() -> None:
    """A difference between texts is no uncertainty about their mean."""
    rng = np.random.default_rng(1)
    near, far = rng.normal(0.0, 0.01, 60), rng.normal(100.0, 0.01, 60)
    e = mean_estimate(np.concatenate([near, far]), make_units([[10] * 6, [10] * 6]))
    assert e.value == pytest.approx(50.0, abs=0.1)
    assert e.high - e.low < 0.1


def test_windows_count_by_their_rows() -> None:
    values = np.concatenate([np.zeros(30), np.ones(10)])
    e = mean_estimate(values, make_units([[10, 10, 10, 10]]))
    assert e.value == pytest.approx(0.25)
    assert e.method == "t"


def test_same_input_same_interval() -> None:
    values = np.random.default_rng(4).normal(size=400)
    units = make_units([[10] * 40])
    assert mean_estimate(values, units) == mean_estimate(values.copy(), units)
    assert mean_estimate(values, units).method == "bootstrap"
    assert quantile_estimate(values, 0.99, units) == quantile_estimate(values.copy(), 0.99, units)


def test_constant_values_have_no_width() -> None:
    for windows in (5, 40):
        e = mean_estimate(np.full(windows * 8, 0.5), make_units([[8] * windows]))
        assert (e.low, e.value, e.high) == (0.5, 0.5, 0.5)


def test_quantile_is_the_smallest_value_that_enough_rows_do_not_exceed() -> None:
    units = make_units([[25] * 4])
    assert quantile_estimate(np.arange(100.0), 0.99, units).value == 98.0
    assert quantile_estimate(np.arange(100.0), 1.0, units).value == 99.0


def test_one_unit_says_nothing() -> None:
    e = ratio_estimate(np.array([3.0]), np.array([1.0]), make_units([[1]]))
    assert (e.value, e.low, e.high, e.method) == (3.0, -math.inf, math.inf, "none")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_stay_so(bad: float) -> None:
    values = np.array([1.0, bad, 1.0, 1.0, 1.0])
    units = make_units([[1] * 5])
    for e in (mean_estimate(values, units), quantile_estimate(values, 0.5, units)):
        assert not math.isfinite(e.value)
        assert e.to_json()["value"] is None


def test_mapping_keeps_bounds_in_range() -> None:
    e = Estimate(0.99, 0.97, 1.01, 5, "t").mapped(float, low=0.0, high=1.0)
    assert (e.low, e.high) == (0.97, 1.0)
    assert math.isnan(exact(math.nan, 1).mapped(float, low=0.0).value)
