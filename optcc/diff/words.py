"""Cells of a difference, for the terminal and for Markdown alike."""

from __future__ import annotations

import re
from collections.abc import Sequence

from optcc.diff.accuracy import AccuracyChange
from optcc.diff.facts import Change
from optcc.diff.tensors import TensorChange
from optcc.numbers import bytes_delta, human_bytes, number
from optcc.report.sentence import shown

_NUMBER = re.compile(r"\.\d+\.")


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
        left, right = ("–" if s is None else human_bytes(int(s)) for s in sides)
        both = None not in sides
        return change.name, left, right, bytes_delta(int(sides[1] or 0), int(sides[0] or 0)) if both else ""
    left, right = ("–" if s is None else s for s in sides)
    return change.name, left, right, ""


def tensor_rows(found: Sequence[TensorChange]) -> list[tuple[str, str, str, str]]:
    """Name, form and bytes on both sides, and the distance of their values.

    Tensors of several layers that changed alike share a row: the sum of their bytes, the largest of their distances.
    """
    groups: dict[tuple[str, str | None, str | None], list[TensorChange]] = {}
    for t in found:
        groups.setdefault((_NUMBER.sub(".*.", t.name), t.left, t.right), []).append(t)
    return [_tensor_row(name, group) for (name, _, _), group in groups.items()]


def _tensor_row(name: str, group: Sequence[TensorChange]) -> tuple[str, str, str, str]:
    one = group[0]
    left = _form(one.left, sum(t.left_bytes for t in group))
    right = _form(one.right, sum(t.right_bytes for t in group))
    named = one.name if len(group) == 1 else f"{len(group)} x {name}"
    return named, left, right, _apart(group)


def _form(form: str | None, size: int) -> str:
    return "–" if form is None else f"{form}, {human_bytes(size)}"


def _apart(group: Sequence[TensorChange]) -> str:
    most = [t.max_abs for t in group if t.max_abs is not None]
    rms = [t.relative_rms for t in group if t.relative_rms is not None]
    if not most or not rms:
        return ""
    word = "at most " if len(group) > 1 else ""
    return f"{word}{number(max(most))}, relative RMS {word}{number(max(rms))}"
