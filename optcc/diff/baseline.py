"""A check against an earlier one: has the artifact become worse than a committed baseline?

Paired over the same windows, a change is measured far more finely than the metric itself. A metric may be worse by a
tenth of what the baseline lost (KL, rise of NLL), or of what it missed (top-1, cosine); SQNR by half a decibel. As with
limits, the whole interval of the change on the right side of that margin passes, the whole on the wrong side fails, and
the rest is undecided. Other tokens than the baseline's can't be compared, and are undecided too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from optcc.artifact import Artifact, canonical_json
from optcc.diff.accuracy import BETTER, AccuracyChange, accuracy_changes
from optcc.errors import BadCheckData
from optcc.files import writing
from optcc.report.junit import Case
from optcc.report.markdown import MARKS, table
from optcc.report.sentence import shown

VERSION = 1
SHARE = 0.1
DECIBEL = 0.5
_SMALLEST = 1e-6
"""A change below this is rounding, whatever a tenth of the loss comes to."""

Verdict = Literal["pass", "fail", "undecided"]


@dataclass(frozen=True)
class Regression:
    """One metric against the baseline; `margin` is how much worse it may be, `difference` is now less then."""

    text: str
    metric: str
    was: float
    now: float
    difference: float
    low: float | None
    high: float | None
    margin: float
    outcome: Verdict


@dataclass(frozen=True)
class Comparison:
    """All metrics against the baseline. `reason` says what could not be compared, if anything."""

    rows: tuple[Regression, ...]
    reason: str

    @property
    def status(self) -> str:
        """`failed`, `undecided` or `ok`."""
        outcomes = {row.outcome for row in self.rows}
        if "fail" in outcomes:
            return "failed"
        return "undecided" if "undecided" in outcomes or self.reason or not self.rows else "ok"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"status": self.status, "rows": [asdict(row) for row in self.rows], "reason": self.reason}


def write_baseline(path: Path, artifact: Artifact, check: Mapping[str, Any]) -> None:
    """Keep a check for later: `check` has the shape of the report's. Raises CannotWrite."""
    manifest = artifact.manifest
    body = {
        "version": VERSION,
        "artifact": manifest.digest,
        "model": {"name": manifest.model.name, "digest": manifest.model.digest},
        "recipe": manifest.recipe.get("name", ""),
        "bytes": artifact.bytes,
        "measurements": check["measurements"],
    }
    with writing(path):
        path.write_bytes(canonical_json(body))


def read_baseline(path: Path) -> dict[str, Any]:
    """A committed baseline. Raises BadCheckData."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BadCheckData(
            f"the baseline can't be read ({error})", where=str(path), hint="--write-baseline FILE writes one"
        ) from error
    if not isinstance(data, dict) or data.get("version") != VERSION or "measurements" not in data:
        raise BadCheckData(
            "this is not a baseline that this release of optcc reads",
            where=str(path),
            hint="write it again with --write-baseline FILE",
        )
    return data


def compare_baseline(baseline: Mapping[str, Any], check: Mapping[str, Any], size: int) -> Comparison:
    """Hold a check against a baseline.

    Args:
        baseline: what `read_baseline` gave.
        check: of the report's shape.
        size: bytes of the artifact, which may grow by a tenth too.
    """
    changes, reason = accuracy_changes(
        {"check": {"measurements": baseline["measurements"]}}, {"check": check}
    )
    # NLL of one text is mostly noise: a better artifact would be undecided for it.
    several = any(change.text == "total" for change in changes)
    rows = [judge(c) for c in changes if c.metric != "nll" or c.text == "total" or not several]
    was = int(baseline["bytes"])
    margin, grown = SHARE * was, float(size - was)
    outcome: Verdict = "pass" if grown <= margin else "fail"
    rows.append(Regression("artifact", "bytes", was, size, grown, grown, grown, margin, outcome))
    return Comparison(tuple(rows), reason)


def judge(change: AccuracyChange) -> Regression:
    """One change against its margin."""
    better = BETTER.get(change.metric, 1)
    margin = _margin(change)
    worst, best = (change.high, change.low) if better < 0 else (change.low, change.high)
    outcome: Verdict
    if change.difference == 0:
        outcome = "pass"
    elif worst is None or best is None:
        outcome = "undecided"
    elif -better * worst <= margin:
        outcome = "pass"
    else:
        outcome = "fail" if -better * best > margin else "undecided"
    return Regression(
        change.text,
        change.metric,
        change.left,
        change.right,
        change.difference,
        change.low,
        change.high,
        margin,
        outcome,
    )


def _margin(change: AccuracyChange) -> float:
    if change.metric == "sqnr":
        return DECIBEL
    lost = 1 - change.left if change.metric in ("top1", "cosine", "cosine_min") else abs(change.left)
    return max(SHARE * lost, _SMALLEST)


def baseline_rows(found: Comparison) -> list[tuple[str, str, str, str, str]]:
    """Cells of a table: metric, then, now, change with its interval, verdict."""
    rows: list[tuple[str, str, str, str, str]] = []
    for row in found.rows:
        show = shown(row.metric) if row.metric != "bytes" else lambda value: f"{value or 0:,.0f}"
        change = f"{row.difference:+.3g}"
        if row.low is not None and row.high is not None and row.low != row.high:
            change += f" [{row.low:+.3g}, {row.high:+.3g}]"
        cells = (f"{row.metric} of {row.text}", show(row.was), show(row.now))
        rows.append((*cells, f"{change}, may be {row.margin:.2g} worse", row.outcome))
    return rows


def baseline_markdown(found: Comparison) -> list[str]:
    """Lines for a pull request."""
    rows = [(*cells, MARKS[outcome]) for *cells, outcome in baseline_rows(found)]
    lines = ["Against the baseline, paired over the same windows:", ""]
    lines += table(("", "baseline", "now", "change [95 %]", ""), rows)
    return [*lines, *([f"Not comparable: {found.reason}.", ""] if found.reason else [])]


def baseline_cases(found: Comparison) -> Sequence[Case]:
    """Test cases for JUnit."""
    cases = [
        Case("baseline", name, change, None if outcome == "pass" else (outcome, f"{was} -> {now}: {change}"))
        for name, was, now, change, outcome in baseline_rows(found)
    ]
    if found.reason:
        cases.append(Case("baseline", "comparable", failure=("undecided", found.reason)))
    return cases
