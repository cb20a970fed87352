"""Tokens that two sets share are found wherever they stand."""

from __future__ import annotations

import numpy as np
import pytest

from optcc.accuracy.overlap import RUN, STRIDE, marks, repeated, shared


def windows(seed: int, count: int = 6, size: int = 200) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 50_000, (count, size)))


def test_different_texts_share_nothing() -> None:
    assert shared(marks(windows(0)), windows(1)) == 0.0
    assert repeated(windows(0)) == 0.0


def test_the_same_text_in_other_windows_is_all_shared() -> None:
    text = np.concatenate(windows(0))
    moved = list(text[: 5 * 230].reshape(5, 230))
    assert shared(marks(moved), [text]) == 1.0


@pytest.mark.parametrize("start", range(0, STRIDE, 5))
def test_a_short_passage_is_found_wherever_it_begins(start: int) -> None:
    learned, checked = windows(0), windows(1)
    length = RUN + STRIDE - 1
    learned[2][start : start + length] = checked[4][100 : 100 + length]
    assert shared(marks(learned), checked) > 0.0


def test_half_of_every_window_again() -> None:
    text = np.concatenate(windows(0, 8))
    halves = [text[i * 100 : i * 100 + 200] for i in range(14)]
    assert 0.3 < repeated(halves) < 0.5


def test_nothing_marked_shares_nothing() -> None:
    assert shared([], windows(0)) == 0.0
    assert shared(marks([np.arange(RUN - 1)]), [np.arange(RUN - 1)]) == 0.0
