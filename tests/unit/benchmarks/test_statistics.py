"""Pairing by round, intervals, and the choice between peers."""

import pytest

from benchmarks.cpu.measure import Attempt, Visit, best_attempt
from benchmarks.cpu.results import Results
from benchmarks.cpu.statistics import paired_ratio, spread
from benchmarks.cpu.workload import BY_KEY, Workload


def make_visit(name: str, round_number: int, threads: int = 2, **figures: float) -> Visit:
    return Visit(name, "1.0", threads, round_number, figures, (), {})


def make_results(**decode: list[float]) -> Results:
    names = {key: key.replace("_", "/") for key in decode}
    visits = [
        make_visit(names[key], number, decode=value)
        for key, values in decode.items()
        for number, value in enumerate(values)
    ]
    return Results({}, list(names.values()), visits=visits)


def test_spread() -> None:
    found = spread([3.0, 1.0, 2.0, 10.0])
    assert (found.median, found.low, found.high, found.rounds) == (2.5, 1.0, 10.0, 4)


def test_ratios_are_paired_by_round() -> None:
    """A machine that runs at half speed in one round leaves the ratio alone."""
    results = make_results(optcc_a=[200.0, 100.0, 210.0], peer_x=[100.0, 50.0, 105.0])
    found = results.ratio("optcc/a", "peer/x", 2, "decode")
    assert found is not None
    assert (found.value, found.interval, found.rounds) == (2.0, (2.0, 2.0), 3)
    assert found.ahead


def test_rounds_that_one_side_lacks_are_left_out() -> None:
    results = make_results(optcc_a=[200.0, 900.0], peer_x=[100.0])
    found = results.ratio("optcc/a", "peer/x", 2, "decode")
    assert found is not None
    assert (found.value, found.interval, found.rounds) == (2.0, None, 1)
    assert not found.ahead, "one round shows nothing"
    assert results.ratio("optcc/a", "peer/absent", 2, "decode") is None
    assert results.ratio("optcc/a", "peer/x", 1, "decode") is None


def test_less_is_better_turns_the_ratio_round() -> None:
    assert BY_KEY["load"].advantage(0.5, 1.5) == 3.0
    assert BY_KEY["decode"].advantage(150.0, 100.0) == 1.5


def test_the_interval_of_five_rounds_is_their_range() -> None:
    values = [1.3, 0.9, 1.1, 1.2, 1.0]
    found = paired_ratio(dict(enumerate(values)))
    assert found.value == 1.1
    assert found.interval == (0.9, 1.3)
    assert not found.ahead


def test_the_interval_narrows_with_rounds_and_covers_the_median() -> None:
    few = paired_ratio({i: 1.0 + (i % 5) / 10 for i in range(5)})
    many = paired_ratio({i: 1.0 + (i % 5) / 10 for i in range(100)})
    assert few.interval is not None
    assert many.interval is not None
    assert many.interval[1] - many.interval[0] < few.interval[1] - few.interval[0]
    assert many.interval[0] <= many.value == 1.2 <= many.interval[1]
    assert many == paired_ratio({i: 1.0 + (i % 5) / 10 for i in range(100)}), (
        "the same input, the same interval"
    )


def test_best_peer_and_those_no_more_accurate() -> None:
    results = make_results(optcc_a=[150.0], fast_x=[300.0], good_y=[100.0], equal_z=[120.0])
    results.nll = {"optcc/a": [3.26], "fast/x": [3.50], "good/y": [3.20], "equal/z": [3.259]}
    assert results.best_peer(results.peers(), 2, "decode") == "fast/x"
    assert results.best_peer([], 2, "decode") is None
    assert results.not_better("optcc/a") == ["fast/x", "equal/z"], "good/y is more accurate"


def test_accuracy_is_compared_window_by_window() -> None:
    """Windows differ far more from each other than two models do on one window."""
    results = make_results(optcc_a=[1.0], peer_x=[1.0])
    assert results.nll_excess("optcc/a", "peer/x") is None
    results.nll = {"optcc/a": [2.0, 4.0, 3.0, 5.0, 2.5], "peer/x": [2.1, 4.12, 3.1, 5.08, 2.6]}
    found = results.nll_excess("optcc/a", "peer/x")
    assert found is not None
    assert found.value == pytest.approx(0.1)
    assert 0.05 < found.low < found.value < found.high < 0.15
    assert results.mean_nll("optcc/a") == pytest.approx(3.3)


def test_figures_of_a_visit() -> None:
    seconds = {"first64": 0.1, "answer": 1.1, "first512": 0.5, "requests4": 2.0, "requests16": 4.0}
    found = Workload(decode_tokens=100, answer_tokens=50).figures(seconds)
    assert found == pytest.approx(
        {"decode": 100, "first64": 100, "first512": 500, "prefill": 1024, "requests4": 100, "requests16": 200}
    )
    assert "decode" not in Workload().figures({**seconds, "answer": 0.05}), "no figure from a negative time"


def test_undisturbed_attempts_count_first() -> None:
    loud, less, quiet = (Attempt((1.0,), others, 0, 0) for others in (0.5, 0.2, 0.05))
    assert best_attempt([loud, less, quiet]) is quiet
    assert best_attempt([loud, less]) is less
