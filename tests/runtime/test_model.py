"""The oracle is worth comparing with: its texts wander, and depend on far-away tokens."""

from __future__ import annotations

import numpy as np

from optcc.runtime import Executor

from .numpy_model import NumpyExecutor, TinyModel


def test_is_an_executor(model: TinyModel) -> None:
    executor: Executor = NumpyExecutor(model)
    executor.bind(3)
    assert executor.export_blocks([1, 2]).shape == (2, 2, 2, 4, 2, 4)


def test_texts_wander(model: TinyModel) -> None:
    texts = [model.greedy([start, 7, 9], 24) for start in range(8)]
    assert len(set(texts)) == 8
    assert np.mean([len(set(text)) for text in texts]) > 5


def test_far_tokens_matter(model: TinyModel) -> None:
    tokens = list(np.random.default_rng(3).integers(0, 48, 40))
    before = model.forward(tokens)[-1]
    tokens[0] = (tokens[0] + 1) % 48
    assert np.abs(model.forward(tokens)[-1] - before).max() > 1e-3
