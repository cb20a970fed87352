"""Verdicts: pass, fail, undecided; what an unknown or unmeasured metric does."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from optcc.accuracy.gates import METRICS, judge, parse_limits
from optcc.accuracy.intervals import Estimate, exact, make_units, mean_estimate
from optcc.errors import RecipeField


def verdict(metric: str, limit: float, value: float, low: float, high: float) -> str:
    report = judge(parse_limits({metric: limit}), {"prose": {metric: Estimate(value, low, high, 5, "t")}})
    (only,) = report.verdicts
    assert report.exit_code == (0 if only.outcome == "pass" else 1)
    return only.outcome


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.001, 0.009, "pass"),
        (0.001, 0.010, "pass"),
        (0.009, 0.011, "undecided"),
        (0.010, 0.012, "undecided"),
        (0.011, 0.012, "fail"),
        (-math.inf, math.inf, "undecided"),
    ],
)
def test_at_most(low: float, high: float, outcome: str) -> None:
    assert verdict("kl", 0.01, 0.0095, low, high) == outcome


@pytest.mark.parametrize(
    ("low", "high", "outcome"), [(0.91, 0.95, "pass"), (0.89, 0.92, "undecided"), (0.8, 0.85, "fail")]
)
def test_at_least(low: float, high: float, outcome: str) -> None:
    assert verdict("top1", 0.9, (low + high) / 2, low, high) == outcome


def test_nan_fails_whatever_the_direction() -> None:
    for name in METRICS:
        assert verdict(name, 0.5, math.nan, math.nan, math.nan) == "fail"


def test_infinite_kl_fails_and_infinite_sqnr_passes() -> None:
    assert verdict("kl", 0.5, math.inf, math.inf, math.inf) == "fail"
    assert verdict("sqnr", 30.0, math.inf, math.inf, math.inf) == "pass"


def test_status_is_the_worst_verdict_over_all_texts() -> None:
    good, open_, bad = exact(0.001, 5), Estimate(0.01, 0.005, 0.02, 5, "t"), exact(0.5, 5)
    limits = parse_limits({"kl": 0.012})
    assert judge(limits, {"a": {"kl": good}}).status == "ok"
    assert judge(limits, {"a": {"kl": good}, "b": {"kl": open_}}).status == "undecided"
    report = judge(limits, {"a": {"kl": good}, "b": {"kl": open_}, "c": {"kl": bad}})
    assert report.status == "failed"
    assert [v.subject for v in report.problems] == ["c", "b"]
    assert judge((), {"a": {"kl": bad}}).status == "ok"


def test_a_limit_on_something_not_measured_is_undecided() -> None:
    report = judge(parse_limits({"greedy": 0.9}), {"prose": {"kl": exact(0.0, 5)}})
    assert report.status == "undecided"
    assert "not measured" in report.verdicts[0].reason


def test_undecided_says_how_many_tokens_would_decide() -> None:
    estimate = Estimate(0.010, 0.006, 0.014, 5, "t")
    report = judge(parse_limits({"kl": 0.012}), {"prose": {"kl": estimate}}, {"prose": 2560})
    assert report.verdicts[0].tokens_needed == 4 * 2560  # half the width needs four times the text
    assert "10240 tokens of it would decide" in report.verdicts[0].reason


def test_a_value_on_the_limit_promises_nothing() -> None:
    estimate = Estimate(0.012, 0.006, 0.014, 5, "t")
    report = judge(parse_limits({"kl": 0.012}), {"prose": {"kl": estimate}}, {"prose": 2560})
    assert report.verdicts[0].tokens_needed is None
    assert "too close" in report.verdicts[0].reason


def test_the_promised_number_of_tokens_does_decide() -> None:
    """Simulated: with twice the tokens asked for, nearly every undecided limit is decided."""
    rng = np.random.default_rng(0)
    limits, decided, asked = parse_limits({"kl": 1.3}), 0, 0
    for _ in range(60):
        few = mean_estimate(rng.exponential(1.0, 800), make_units([[100] * 8]))
        first = judge(limits, {"x": {"kl": few}}, {"x": 800}).verdicts[0]
        if first.outcome == "pass" or first.tokens_needed is None or first.tokens_needed > 100_000:
            continue
        asked += 1
        n = -(-2 * first.tokens_needed // 100)
        many = mean_estimate(rng.exponential(1.0, n * 100), make_units([[100] * n]))
        decided += judge(limits, {"x": {"kl": many}}).status != "undecided"
    assert asked == 0 or decided / asked > 0.7


def test_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(RecipeField) as caught:
        parse_limits({"topp1": 0.9}, where="recipe.yaml:7")
    assert caught.value.code == "E103"
    assert caught.value.where == "recipe.yaml:7"
    assert "top1" in (caught.value.hint or "")


@pytest.mark.parametrize("value", ["0.1", None, True, math.nan, [1]])
def test_a_limit_is_a_number(value: object) -> None:
    with pytest.raises(RecipeField, match="kl is a number"):
        parse_limits({"kl": value})


def test_reports_are_json() -> None:
    report = judge(
        parse_limits({"kl": 1, "greedy": 0.5}),
        {"a": {"kl": Estimate(0.5, -math.inf, math.inf, 1, "none")}},
        {"a": 10},
    )
    plain = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert plain["status"] == "undecided"
    assert plain["verdicts"][0]["measured"]["low"] is None
    assert "too little data" in plain["verdicts"][0]["reason"]
