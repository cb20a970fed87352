"""Picking from all parts of a sequence."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from optcc.quant.spread import split, spread


@given(st.integers(1, 500), st.integers(1, 500))
def test_different_indices_at_equal_distances(count: int, wanted: int) -> None:
    found = spread(count, wanted)
    assert len(set(found)) == len(found) == min(count, wanted)
    assert min(found) >= 0
    assert max(found) < count
    gaps = [b - a for a, b in pairwise(found)]
    assert not gaps or max(gaps) - min(gaps) <= 1


@given(st.integers(1, 100), st.integers(1, 100))
def test_nothing_is_lost(count: int, wanted: int) -> None:
    others, picked = split(range(count), wanted)
    assert sorted(others + picked) == list(range(count))
    assert picked == list(spread(count, wanted))
