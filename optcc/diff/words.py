"""Cells of a difference, for the terminal and for Markdown alike."""

from __future__ import annotations

from collections.abc import Sequence

from optcc.diff.accuracy import AccuracyChange
from optcc.diff.facts import Change
from optcc.diff.tensors import TensorChange
from optcc.numbers import bytes_delta, human_bytes, number
from optcc.report.sentence import shown

_NOT_BYTES = "tokens/s"


def accuracy_rows(found: Sequence[AccuracyChange]) -> list[tuple[str, str, str, str]]:
    """Metric and text, both values, and which is better by how much."""
    rows = []
    for c in found:
        show = shown(c.metric)
        told = "the same" if c.outcome == "same" else f"{c.outcome}: {c.difference:+.3g}"
        if c.low is not None and c.high is not None and c.outcome != "same":
            told += f" [{c.low:+.3g}, {c.high:+.3g}]"
        told += "" if c.paired else ", not paired"
        rows.append((f"{c.metric} of {c.text}", show(c.left), show(c.right), told))
    return rows


def change_cells(change: Change) -> tuple[str, str, str, str]:
    """Name, both sides, and for sizes the difference."""
    sides = [change.left, change.right]
    if all(s is None or s.isdecimal() for s in sides) and not change.name.startswith(("check", "calibrate")):
        sizes = [int(s) for s in sides if s is not None]
        if len(sizes) == 2:
            left, right = (human_bytes(s) for s in sizes)
            return change.name, left, right, bytes_delta(sizes[1], sizes[0])
    return change.name, *("–" if s is None else s for s in sides), ""


def tensor_rows(found: Sequence[TensorChange]) -> list[tuple[str, str, str, str]]:
    """Name, form and bytes on both sides, and the distance of their values."""
    return [(t.name, _form(t.left, t.left_bytes), _form(t.right, t.right_bytes), _apart(t)) for t in found]


def _form(form: str | None, size: int) -> str:
    return "–" if form is None else f"{form}, {human_bytes(size)}"


def _apart(t: TensorChange) -> str:
    if t.max_abs is None or t.relative_rms is None:
        return ""
    return f"max {number(t.max_abs)}, relative RMS {number(t.relative_rms)}"
