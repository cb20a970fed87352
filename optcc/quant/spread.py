"""Some of a sequence's items, from all parts of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

_T = TypeVar("_T")


def spread(count: int, wanted: int) -> tuple[int, ...]:
    """`wanted` different indices below `count`, at equal distances; all of them when there are no more.

    Calibration windows lie text by text, so that what is taken at equal distances has all texts in it.
    """
    wanted = min(count, wanted)
    return tuple((2 * i + 1) * count // (2 * wanted) for i in range(wanted))


def split(items: Sequence[_T], wanted: int) -> tuple[list[_T], list[_T]]:
    """(the others, those `spread` picks), each in their order."""
    picked = set(spread(len(items), wanted))
    return (
        [item for i, item in enumerate(items) if i not in picked],
        [item for i, item in enumerate(items) if i in picked],
    )
