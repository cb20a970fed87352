"""`optcc bisect`: binary search over the points of a pipeline."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from optcc.compile.bisect.probes import Probe, Prober
from optcc.compile.points import Points, open_points
from optcc.compile.progress import Progress
from optcc.errors import OptccError
from optcc.ir.text import module_text
from optcc.recipe import Recipe

Metric = Literal["kl", "crash", "speed"]
_DIFF_LINES = 24
_SLOWER = 0.9


@dataclass(frozen=True)
class BisectResult:
    """What was found.

    Attributes:
        metric: what was searched for.
        step: the pass with its options; None when nothing is wrong.
        place: its place among the passes, from 0.
        line: where the recipe names it; None for a pass of the backend's.
        probes: every question, in order.
        runs: modules that were run for them.
        told: what it does, in a sentence.
        diff: what it changed, shortened.
        note: when the answer is not the whole story.
        commands: that show it again.
    """

    metric: Metric
    step: str | None
    place: int | None
    line: str | None
    probes: tuple[Probe, ...]
    runs: int
    told: str
    diff: tuple[str, ...] = ()
    note: str | None = None
    commands: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "version": 1,
            "metric": self.metric,
            "pass": self.step,
            "place": self.place,
            "where": self.line,
            "told": self.told,
            "probes": [p.to_json() for p in self.probes],
            "runs": self.runs,
            "diff": list(self.diff),
            "note": self.note,
            "commands": list(self.commands),
        }


def bisect(
    model: str,
    recipe: Recipe,
    ref: str,
    metric: Metric,
    limit: float | None,
    cache: Path | None,
    progress: Progress,
) -> BisectResult:
    """Find the pass that broke a model.

    Args:
        model: as of `compile_model`.
        recipe: resolved.
        ref: how the command line names it.
        metric: `kl`: the first pass that moves outputs further than promised, or, with a limit, further from the
            original than that; `crash`: after which the module can't be run or computes NaN; `speed`: after which it is
            slower.
        limit: nats per token, or tokens per second.
        cache: where finished passes are kept.
        progress: told what happens.
    """
    with open_points(model, recipe, cache, progress) as points:
        prober = Prober(points)
        progress.stage("bisect")
        last = _last(points)
        if isinstance(last, _Raised):
            found = _Found(last.place, f"raises {last.error.code}: {last.error.what}")
        elif metric == "crash":
            found = _crash(prober)
        elif metric == "speed":
            found = _speed(prober, limit)
        elif limit is not None:
            found = _beyond(prober, limit)
        else:
            found = _promises(prober)
        return _result(points, prober, found, metric, model, ref)


@dataclass(frozen=True)
class _Found:
    place: int | None
    told: str
    note: str | None = None


@dataclass(frozen=True)
class _Raised:
    place: int
    error: OptccError


def _last(points: Points) -> _Raised | None:
    """The pass that raises, if one does; afterwards every point is in the cache."""
    try:
        points.at(len(points.steps))
    except OptccError as error:
        if error.code != "E302":
            raise
        return _Raised(points.done, error)
    return None


def _promises(prober: Prober) -> _Found:
    """The first pass that broke its promise.

    Passes that only round must leave the model as it was, so a whole run of them is held to that at once; a pass with a
    budget is a run of its own.
    """
    steps, begin = prober.points.steps, 0
    while begin < len(steps):
        end = begin + 1
        if prober.promise(steps[begin]).kind != "kl":
            while end < len(steps) and prober.promise(steps[end]).kind != "kl":
                end += 1
        whole = prober.held(begin, end)
        if whole.bad:
            place = _search(begin, end, partial(_breaks, prober, begin)) - 1
            own = next(p for p in reversed(prober.probes) if p.point == place + 1)
            return _Found(place, f"moves {own.told}", _monotone(own, whole))
        begin = end
        prober.forget((0, begin))
    return _Found(None, "every pass keeps its promise")


def _breaks(prober: Prober, since: int, point: int) -> bool:
    return prober.held(since, point).bad


def _beyond(prober: Prober, limit: float) -> _Found:
    count = len(prober.points.steps)
    whole = prober.beyond(count, limit)
    if not whole.bad:
        return _Found(None, f"the last module is within the limit: {whole.told}")
    place = _search(0, count, lambda point: prober.beyond(point, limit).bad) - 1
    own = next(p for p in reversed(prober.probes) if p.point == place + 1)
    return _Found(
        place, f"is the first behind which the model is too far off: {own.told}", _monotone(own, whole)
    )


def _crash(prober: Prober) -> _Found:
    count = len(prober.points.steps)
    whole = prober.fails(count)
    if whole.bad:
        place = _search(0, count, lambda point: prober.fails(point).bad) - 1
        own = next(p for p in reversed(prober.probes) if p.point == place + 1)
        return _Found(place, f"leaves a module that can't be used: {own.told}")
    begin = len(prober.points.plan.stages["canonicalize"])
    whole = prober.lowering_fails(count)
    if not whole.bad:
        return _Found(None, f"the last module runs, lowered too: {whole.told}")
    first = prober.lowering_fails(begin)
    if first.bad:
        return _Found(None, f"the backend can't run the canonical module either: {first.told}")
    place = _search(begin, count, lambda point: prober.lowering_fails(point).bad) - 1
    own = next(p for p in reversed(prober.probes) if p.point == place + 1)
    return _Found(place, f"leaves a module that the backend can't run: {own.told}")


def _speed(prober: Prober, limit: float | None) -> _Found:
    begin, count = len(prober.points.plan.stages["canonicalize"]), len(prober.points.steps)
    first, whole = prober.speed(begin, 0.0).value or 0.0, prober.speed(count, limit or 0.0)
    bound = limit if limit is not None else math.sqrt(first * (whole.value or 0.0))
    if (whole.value or 0.0) >= (limit if limit is not None else _SLOWER * first):
        return _Found(None, f"the last module runs at {whole.told}, the canonical one at {first:.1f}")
    if first < bound:
        return _Found(None, f"the canonical module is too slow already: {first:.1f} per second")
    place = _search(begin, count, lambda point: prober.speed(point, bound).bad) - 1
    own = next(p for p in reversed(prober.probes) if p.point == place + 1)
    note = "timings vary: repeat it on a quiet machine before trusting it"
    return _Found(
        place, f"is the first behind which it is slower than {bound:.1f} per second: {own.told}", note
    )


def _search(good: int, bad: int, is_bad: Callable[[int], bool]) -> int:
    """The first bad point between a good and a bad one, if there is only one change; else one of the changes."""
    while bad - good > 1:
        middle = (good + bad) // 2
        if is_bad(middle):
            bad = middle
        else:
            good = middle
    return bad


def _monotone(own: Probe, whole: Probe) -> str | None:
    """A remark when what comes later matters as much."""
    a, b = own.value, whole.value
    if a is None or b is None or math.isnan(a) or math.isnan(b):
        return None
    if b < a / 2:
        return f"not monotone: later passes make up for some of it ({a:.3g} here, {b:.3g} at the end)"
    if b > 2 * a:
        return f"not the only one: later passes move it further ({a:.3g} here, {b:.3g} at the end)"
    return None


def _result(
    points: Points, prober: Prober, found: _Found, metric: Metric, model: str, ref: str
) -> BisectResult:
    if found.place is None:
        return BisectResult(
            metric, None, None, None, tuple(prober.probes), prober.runs, found.told, note=found.note
        )
    step = points.steps[found.place]
    commands = (
        f"optcc compile {model} {ref} -o OUT --prove each",
        f"optcc compile {model} {ref} -o OUT --dump-ir DIR   # {found.place:03} and {found.place + 1:03}",
        f"optcc passes show {step.id}",
    )
    return BisectResult(
        metric,
        str(step),
        found.place,
        points.line_of(found.place),
        tuple(prober.probes),
        prober.runs,
        found.told,
        _diff(points, found.place),
        found.note,
        commands,
    )


def _diff(points: Points, place: int) -> tuple[str, ...]:
    """What a pass changed in the module's text, the first lines."""
    try:
        before, after = (module_text(points.at(p)).splitlines() for p in (place, place + 1))
    except OptccError:
        return ()
    lines = [
        line
        for line in difflib.unified_diff(before, after, "before", "after", lineterm="", n=0)
        if not line.startswith(("---", "+++", "@@"))
    ]
    shown = [line if len(line) <= 160 else line[:157] + "…" for line in lines[:_DIFF_LINES]]
    more = len(lines) - len(shown)
    return (*shown, *([f"… and {more} more lines"] if more else []))
