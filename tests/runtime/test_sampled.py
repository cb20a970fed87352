"""Sampled tokens are held to the distribution that was asked for: a right sampler passes, each wrong one is noticed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from optcc.compile.sampled import NOISY, allowed, engine_misses, missed, sampler_misses
from optcc.runtime import SamplingParams, StepHandle
from optcc.runtime.sampler import distribution, draw, sample, uniform

from .numpy_model import VOCAB, NumpyExecutor, TinyModel

TEXT = [int(t) for t in np.random.default_rng(0).integers(0, VOCAB, 40)]
PROMPTS = [TEXT[i : i + 9] for i in range(0, 24, 3)]
Choose = Callable[[np.ndarray, Sequence[SamplingParams], Sequence[int]], list[int]]


class Chooses(NumpyExecutor):
    """Samples in a way of its own."""

    def __init__(self, model: TinyModel, choose: Choose) -> None:
        super().__init__(model)
        self.choose = choose

    def sample(
        self, handle: StepHandle, params: Sequence[SamplingParams], positions: Sequence[int]
    ) -> list[int]:
        return self.choose(self.logits(handle), params, positions)


def changed(**fields: object) -> Choose:
    """As if other parameters had been asked for."""
    return lambda logits, params, places: sample(logits, [replace(p, **fields) for p in params], places)  # type: ignore[arg-type]


def one_more(logits: np.ndarray, params: Sequence[SamplingParams], places: Sequence[int]) -> list[int]:
    return sample(logits, [replace(p, top_k=p.top_k + 1 if p.top_k else 0) for p in params], places)


def hotter(logits: np.ndarray, params: Sequence[SamplingParams], places: Sequence[int]) -> list[int]:
    return sample(logits, [replace(p, temperature=p.temperature**2) for p in params], places)


def not_the_last(logits: np.ndarray, params: Sequence[SamplingParams], places: Sequence[int]) -> list[int]:
    """The token that would reach top-p's mass is left out."""
    found = []
    for row, asked, place in zip(logits, params, places, strict=True):
        ids, weights = distribution(row, asked)
        if asked.top_p < 1.0 and len(ids) > 1:
            ids, weights = ids[:-1], weights[:-1] / weights[:-1].sum()
        found.append(draw(ids, weights, uniform(asked.seed, place)))
    return found


class OfTheTime:
    """Draws that don't come from the seed."""

    def __init__(self) -> None:
        self.number = np.random.default_rng(1)

    def __call__(
        self, logits: np.ndarray, params: Sequence[SamplingParams], places: Sequence[int]
    ) -> list[int]:
        seeds = [replace(p, seed=int(self.number.integers(1 << 30))) for p in params]
        return sample(logits, seeds, places)


WRONG: dict[str, Choose] = {
    "temperature ignored": changed(temperature=1.0),
    "temperature squared": hotter,
    "top-k ignored": changed(top_k=0),
    "top-k one more": one_more,
    "top-p ignored": changed(top_p=1.0),
    "top-p one less": not_the_last,
    "seed ignored": changed(seed=3),
    "greedy": changed(temperature=0.0),
    "position ignored": lambda logits, params, places: sample(logits, params, [0] * len(places)),
    "not repeatable": OfTheTime(),
    "neighbour's token": lambda logits, params, places: (
        (found := sample(logits, params, places))[1:] + found[:1]
    ),
}


@pytest.mark.parametrize("seed", range(12))
def test_a_right_sampler_passes(seed: int) -> None:
    executor = NumpyExecutor(TinyModel(seed), page_seed=seed)
    assert sampler_misses(executor, TEXT) == 0.0
    assert engine_misses(executor, PROMPTS, 12) == 0.0
    assert engine_misses(executor, PROMPTS, 12, slack=NOISY) == 0.0


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_one_is_noticed(model: TinyModel, name: str) -> None:
    assert sampler_misses(Chooses(model, WRONG[name]), TEXT) > 1e-3


@pytest.mark.parametrize("name", ["temperature squared", "top-k one more", "neighbour's token"])
def test_the_engines_answers_show_it_too(model: TinyModel, name: str) -> None:
    executor = Chooses(model, WRONG[name])
    assert engine_misses(executor, PROMPTS, 12) > 1e-3


def test_what_may_be_drawn_is_what_the_sampler_draws_from() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 97)).astype(np.float32) * 3
    for i, row in enumerate(rows):
        asked = SamplingParams(0.4 + i / 20, i % 7, 1.0 - (i % 5) / 6)
        ids, weights = distribution(row, asked)
        found = allowed(row, asked)
        assert set(ids.tolist()) == set(np.flatnonzero(np.isfinite(found.chances)).tolist())
        assert np.allclose(found.chances[ids], np.log(weights), atol=1e-9)
        assert math.isclose(found.mean, float((weights * np.log(weights)).sum()), abs_tol=1e-9)
        spread = float((weights * np.log(weights) ** 2).sum()) - found.mean**2
        assert math.isclose(found.variance, spread, abs_tol=1e-9)


def test_a_token_that_may_not_come_is_infinitely_wrong() -> None:
    row = allowed(np.array([3.0, 2.0, 1.0], np.float32), SamplingParams(1.0, top_k=2))
    assert missed([row] * 3, [0, 1, 0]) == 0.0
    assert missed([row] * 3, [0, 1, 2]) == math.inf
