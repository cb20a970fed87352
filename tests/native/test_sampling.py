"""The native sampler: the tokens that the plain one chooses."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optcc.backends.onnxruntime import native
from optcc.backends.onnxruntime.native.sampling import sample
from optcc.runtime import BadLogits, SamplingParams
from optcc.runtime.sampler import GREEDY
from optcc.runtime.sampler import sample as plain

INF = float("inf")

pytestmark = pytest.mark.skipif(not native.status().ok, reason=f"native operators: {native.status()}")


@pytest.fixture(params=native.status().usable, autouse=True)
def isa(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every instruction set of this machine."""
    native.choose_isa(request.param)
    yield
    native.choose_isa("")


def rows(seed: int, count: int, vocab: int, spread: float, ties: bool = False) -> np.ndarray:
    found = np.random.default_rng(seed).standard_normal((count, vocab)) * spread
    return (found.round(1) if ties else found).astype(np.float32)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**64 - 1),
    vocab=st.sampled_from([1, 2, 15, 64, 65, 500, 5000]),
    spread=st.sampled_from([0.0, 0.3, 3.0, 30.0]),
    temperature=st.sampled_from([0.0, 0.05, 0.8, 1.0, 4.0, 1e300]),
    top_k=st.sampled_from([0, 1, 2, 40, 10**12]),
    top_p=st.sampled_from([1e-9, 0.31415, 0.9507, 1.0]),
    ties=st.booleans(),
    forbidden=st.booleans(),
)
def test_it_chooses_what_the_plain_sampler_chooses(
    seed: int,
    vocab: int,
    spread: float,
    temperature: float,
    top_k: int,
    top_p: float,
    ties: bool,
    forbidden: bool,
) -> None:
    logits = rows(seed % 1000, 8, vocab, spread, ties)
    if forbidden:
        logits[:, ::3] = -INF
        logits[:, -1] = 0.5
    params = [SamplingParams(temperature, top_k, top_p, seed)] * 8
    positions = [seed % 2**40 + i for i in range(8)]
    assert sample(logits, params, positions) == plain(logits, params, positions)


def test_rows_of_different_requests_and_a_real_vocabulary() -> None:
    logits = rows(7, 12, 49152, 2.5)
    params = [SamplingParams(t, k, p, 9) for t in (0.0, 0.7, 1.3) for k in (0, 50) for p in (0.9, 1.0)]
    positions = list(range(12))
    together = sample(logits, params, positions)
    assert together == plain(logits, params, positions)
    assert together == [sample(logits[i : i + 1], [params[i]], [i])[0] for i in range(12)]


def test_forbidden_tokens_never_come() -> None:
    row = np.array([[-INF, 0, -INF, 0, -INF]], np.float32)
    for choice in (SamplingParams(3.0), SamplingParams(3.0, top_k=4), SamplingParams(3.0, top_p=0.999)):
        assert {sample(row, [choice], [position])[0] for position in range(300)} == {1, 3}


@pytest.mark.parametrize("forbidden", [0, 100])
def test_more_mass_than_sums_come_to(forbidden: int) -> None:
    """As much of all that rounding decides whether there is so much."""
    logits = np.sort(rows(11, 64, 5000, 0.3), axis=1)
    logits[:, :forbidden] = -INF
    params = [SamplingParams(1.0, 0, 1 - 1e-12, seed) for seed in range(64)]
    assert sample(logits, params, range(64)) == plain(logits, params, range(64))


@pytest.mark.parametrize("wrong", [[0, np.nan, 1], [INF, 0, 0], [-INF, -INF, -INF]])
@pytest.mark.parametrize("choice", [GREEDY, SamplingParams(1.0, 2), SamplingParams(1.0, 0, 0.5)])
def test_bad_logits(wrong: list[float], choice: SamplingParams) -> None:
    fine = np.zeros((2, 3), np.float32)
    fine[1] = wrong
    with pytest.raises(BadLogits):
        sample(fine, [choice] * 2, [0, 0])


def test_the_worst_case_is_linear() -> None:
    """A flat distribution brings nearly all tokens into question; sorting them would take 60 times longer."""
    logits = rows(3, 1, 400_000, 0.01)
    choice = [SamplingParams(1.0, 0, 0.9)]
    sample(logits, choice, [0])
    began = time.perf_counter()
    sample(logits, choice, [1])
    assert time.perf_counter() - began < 0.5


def test_rows_and_parameters_must_match() -> None:
    with pytest.raises(ValueError, match="rows"):
        sample(rows(0, 2, 8, 1.0), [GREEDY], [0])
