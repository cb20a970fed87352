"""Sampling: right distribution, right filters, and a function of (row, params, position) alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optcc.errors import BadSampling
from optcc.runtime import BadLogits, SamplingParams, StopConditions
from optcc.runtime.sampler import GREEDY, distribution, draw, sample, uniform

ROW = np.log(np.array([0.05, 0.4, 0.1, 0.25, 0.2])).astype(np.float32)
INF = float("inf")


def kept(row: np.ndarray, **options: float) -> dict[int, float]:
    ids, weights = distribution(
        np.asarray(row, np.float32), SamplingParams(**{"temperature": 1.0, **options})
    )
    return dict(zip(ids.tolist(), weights.round(4).tolist(), strict=True))


def test_greedy_takes_the_lowest_of_equals() -> None:
    rows = np.array([[1, 3, 3, 0], [2, 2, 2, 2], [-INF, -INF, 0, -5]], np.float32)
    assert sample(rows, [GREEDY] * 3, [0, 1, 2]) == [1, 0, 2]


def test_filters() -> None:
    assert kept(ROW) == {0: 0.05, 1: 0.4, 2: 0.1, 3: 0.25, 4: 0.2}
    assert kept(ROW, temperature=0.5)[1] == round(0.16 / (0.0025 + 0.16 + 0.01 + 0.0625 + 0.04), 4)
    assert kept(ROW, top_k=2) == {1: round(0.4 / 0.65, 4), 3: round(0.25 / 0.65, 4)}
    assert list(kept(ROW, top_p=0.8)) == [1, 3, 4], "0.4 + 0.25 is short of 0.8"
    assert list(kept(ROW, top_p=0.6)) == [1, 3]
    assert list(kept(ROW, top_p=1e-9)) == [1], "one always stays"
    assert list(kept(ROW, top_k=2, top_p=0.63)) == [1, 3], (
        "top-p counts the mass that top-k left: 0.4/0.65 < 0.63"
    )
    assert list(kept(ROW, top_k=2, top_p=0.61)) == [1]
    assert kept(ROW, top_k=99) == kept(ROW), "more than there are"


def test_filter_ties_go_to_the_lowest_ids() -> None:
    assert list(kept([0, 1, 1, 1, 2], top_k=3)) == [4, 1, 2]
    assert list(kept([0, 0, 0, 0], top_p=0.5)) == [0, 1]
    assert list(kept([0, 0, 0, 0], top_p=0.51)) == [0, 1, 2]


def test_forbidden_tokens_never_come() -> None:
    row = np.array([[-INF, 0, -INF, 0, -INF]], np.float32)
    params = SamplingParams(temperature=3.0, seed=5)
    assert {sample(row, [params], [position])[0] for position in range(200)} == {1, 3}
    ids, weights = distribution(row[0], params)
    assert draw(ids, weights, 0.0) == 1
    assert draw(ids, weights, 1 - 2**-53) == 3


def test_tiny_temperature_is_greedy() -> None:
    assert sample(ROW[None], [SamplingParams(temperature=5e-324)], [3]) == [1]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    scores=st.lists(st.integers(-6, 6), min_size=1, max_size=30),
    top_k=st.integers(0, 8),
    top_p=st.floats(0.001, 1.0),
)
def test_filters_against_plain_sorting(scores: list[int], top_k: int, top_p: float) -> None:
    """The pruned, partly sorted filters keep what sorting everything keeps."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[: top_k or None]
    weights = np.exp(np.array([scores[i] for i in order], float))
    reached = np.cumsum(weights / weights.sum())
    # On the edge, rounding decides: both sides of it are right.
    low, high = (int(np.sum(reached < top_p + slack)) + 1 for slack in (-1e-12, 1e-12))
    ids = list(kept(np.array(scores), top_k=top_k, top_p=top_p))
    if top_p < 1.0:
        assert ids in (order[:low], order[:high])
    else:
        assert sorted(ids) == sorted(order)


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.8}, {"temperature": 2.0, "top_p": 0.95}])
def test_frequencies(options: dict[str, float]) -> None:
    """20,000 positions of one seed against the exact distribution: chi-squared below its 1e-6 quantile."""
    params = SamplingParams(**{"temperature": 1.0, "seed": 11, **options})
    draws = 20_000
    numbers = [uniform(11, position) for position in range(draws)]
    ids, weights = distribution(ROW, params)
    found = np.bincount([draw(ids, weights, number) for number in numbers], minlength=5)
    assert found.sum() == found[ids].sum() == draws
    chi = float(((found[ids] - draws * weights) ** 2 / (draws * weights)).sum())
    assert chi < 33, f"{found} against {draws * weights}"


def test_uniform_numbers() -> None:
    numbers = np.array([[uniform(seed, position) for position in range(2000)] for seed in (0, 1, 2**64 - 1)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert len(np.unique(numbers)) == numbers.size
    assert abs(numbers.mean() - 0.5) < 0.02
    assert np.abs(np.corrcoef(numbers) - np.eye(3)).max() < 0.08
    neighbours = np.corrcoef(numbers[0, :-1], numbers[0, 1:])[0, 1]
    assert abs(neighbours) < 0.08
    assert uniform(0, 1, stream=1) != uniform(0, 1)


def test_the_generator_is_pinned() -> None:
    """Recorded texts must stay reproducible: these numbers may never change."""
    assert [round(uniform(7, position), 12) for position in (0, 1, 1000)] == [
        0.87207345482,
        0.082842687027,
        0.23190574452,
    ]


def test_independent_of_the_batch() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 300)).astype(np.float32)
    params = [SamplingParams(float(i % 3) * 0.7, i % 7, 1.0 - (i % 4) * 0.1, seed=i % 5) for i in range(40)]
    together = sample(rows, params, range(40))
    order = rng.permutation(40)
    shuffled = sample(rows[order], [params[i] for i in order], order.tolist())
    alone = [sample(rows[i : i + 1], [params[i]], [i])[0] for i in range(40)]
    assert together == alone == [shuffled[list(order).index(i)] for i in range(40)]
    assert sample(rows, params, range(1, 41)) != together, "the position matters"


@pytest.mark.parametrize("bad", [float("nan"), INF])
def test_broken_logits(bad: float) -> None:
    rows = np.zeros((2, 5), np.float32)
    rows[1, 3] = bad
    with pytest.raises(BadLogits):
        sample(rows, [GREEDY, GREEDY], [0, 0])
    with pytest.raises(BadLogits):
        sample(np.full((1, 5), -INF, np.float32), [SamplingParams(1.0)], [0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: SamplingParams(temperature=-0.1),
        lambda: SamplingParams(temperature=float("nan")),
        lambda: SamplingParams(temperature=INF),
        lambda: SamplingParams(temperature="1"),  # type: ignore[arg-type]
        lambda: SamplingParams(temperature=True),
        lambda: SamplingParams(top_k=-1),
        lambda: SamplingParams(top_k=1.5),  # type: ignore[arg-type]
        lambda: SamplingParams(top_p=0.0),
        lambda: SamplingParams(top_p=1.01),
        lambda: SamplingParams(top_p=float("nan")),
        lambda: SamplingParams(seed=-1),
        lambda: SamplingParams(seed=2**64),
        lambda: SamplingParams(seed="x"),  # type: ignore[arg-type]
        lambda: StopConditions(max_tokens=0),
        lambda: StopConditions(max_tokens=2.0),  # type: ignore[arg-type]
        lambda: StopConditions(strings=("",)),
        lambda: StopConditions(strings="abc"),  # type: ignore[arg-type]
    ],
)
def test_bad_parameters(make: Callable[[], object]) -> None:
    with pytest.raises(BadSampling) as caught:
        make()
    assert caught.value.code == "E703"
    assert caught.value.hint
