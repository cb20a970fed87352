"""A text served among others is what it is alone, and what isn't is noticed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from optcc.compile.served import answer, score_end, serve, serve_at_once, shortfall, stops_wrongly
from optcc.runtime import Batch, StepHandle
from optcc.runtime.scheduler import Scheduler
from optcc.runtime.score import score_windows

from .numpy_model import VOCAB, NumpyExecutor, TinyModel

TEXTS = [[int(t) for t in np.random.default_rng(n).integers(0, VOCAB, n)] for n in (40, 23, 16, 5)]


def worst(executor: NumpyExecutor) -> float:
    alone = [np.concatenate(list(score_windows(executor, [text]))) for text in TEXTS]
    found = list(serve(executor, TEXTS))
    assert sum(len(s.positions) for s in found) > 40
    return max(float(np.abs(alone[s.request][s.positions] - s.logits).max()) for s in found)


def worst_at_once(executor: NumpyExecutor) -> float:
    alone = [np.concatenate(list(score_windows(executor, [text]))) for text in TEXTS]
    found = list(serve_at_once(executor, TEXTS))
    assert sum(len(s.positions) for s in found) > 80 and len(found) > len(TEXTS)
    return max(float(np.abs(alone[s.request][s.positions] - s.logits).max()) for s in found)


class WrongInLargeSteps(NumpyExecutor):
    """Behind the 100th row of a step everything is a little off."""

    def step(self, batch: Batch) -> StepHandle:
        made: Any = super().step(batch)
        late = batch.wanted_rows[:, None] >= 100
        return replace(made, rows=np.where(late, made.rows * 1.01, made.rows))


def test_many_requests_at_once_find_what_only_large_steps_do(model: TinyModel) -> None:
    assert worst_at_once(NumpyExecutor(model)) == 0.0
    assert worst(WrongInLargeSteps(model)) == 0.0
    assert worst_at_once(WrongInLargeSteps(model)) > 0.0


def test_the_end_of_a_text_in_steps_is_the_end_of_the_whole(model: TinyModel) -> None:
    whole = np.concatenate(list(score_windows(NumpyExecutor(model), [TEXTS[0]])))
    assert np.array_equal(score_end(NumpyExecutor(model), TEXTS[0], 5, most=7), whole[-5:])


def test_a_right_executor_is_alike_to_the_bit(model: TinyModel) -> None:
    assert worst(NumpyExecutor(model)) == 0.0


class LeansOnNeighbours(NumpyExecutor):
    """A row's logits depend a little on those beside it."""

    def logits(self, handle: StepHandle) -> np.ndarray:
        rows = super().logits(handle)
        return 0.99 * rows + 0.01 * rows.mean(0) if 1 < len(rows) < 20 else rows


class ExchangesTables(NumpyExecutor):
    """Two requests get each other's pages."""

    def step(self, batch: Batch) -> Any:
        table = batch.block_table.copy()
        table[: 2 * (len(table) // 2)] = (
            table[: 2 * (len(table) // 2)].reshape(-1, 2, table.shape[1])[:, ::-1].reshape(-1, table.shape[1])
        )
        return super().step(replace(batch, block_table=table))


@pytest.mark.parametrize("wrong", [LeansOnNeighbours, ExchangesTables])
def test_a_wrong_executor_is_not(model: TinyModel, wrong: type[NumpyExecutor]) -> None:
    assert worst(wrong(model)) > 1e-3


def test_the_engines_choices_are_the_best(model: TinyModel) -> None:
    executor = NumpyExecutor(model)
    answers = answer(executor, TEXTS, 12)
    assert [len(a) for a in answers] == [12] * len(TEXTS)
    assert float(shortfall(executor, TEXTS, answers, 12).max()) == 0.0
    assert not stops_wrongly(executor, TEXTS[0], answers[0])


def test_another_choice_falls_short(model: TinyModel) -> None:
    executor = NumpyExecutor(model)
    answers = answer(executor, TEXTS, 6)
    answers[2][3] = (answers[2][3] + 1) % VOCAB
    assert float(shortfall(executor, TEXTS, answers, 6).max()) > 1e-3


def test_an_answer_that_ends_early_is_infinitely_short(model: TinyModel) -> None:
    executor = NumpyExecutor(model)
    answers = answer(executor, TEXTS, 6)
    answers[1] = answers[1][:-1]
    assert math.isinf(float(shortfall(executor, TEXTS, answers, 6).max()))


def test_answers_that_nothing_ends_lose_their_blocks_and_begin_again(
    model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An end token in the first answer hides preemption from answers that the model may end."""
    prompts = [text[:12] for text in TEXTS[:3]] * 2
    ends = {found[0] for found in answer(NumpyExecutor(model), prompts, 20)}
    executor = NumpyExecutor(model, eos=tuple(ends))
    assert all(len(found) == 1 for found in answer(executor, prompts, 20))
    lost = []
    preempt = Scheduler._preempt
    monkeypatch.setattr(Scheduler, "_preempt", lambda self, state: (lost.append(state), preempt(self, state)))
    endless = answer(executor, prompts, 20, ends=())
    assert lost and all(len(found) == 20 for found in endless)
    assert not shortfall(executor, prompts, endless, 20, ends=()).any()
    assert math.isinf(float(shortfall(executor, prompts, endless, 20).max()))
