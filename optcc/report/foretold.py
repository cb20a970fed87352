"""What preflight predicted beside what was measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from optcc.numbers import human_bytes, human_seconds
from optcc.report.shape import ReportJson


@dataclass(frozen=True)
class Foretold:
    """One figure: in words, and measured as a share of predicted, less 1."""

    name: str
    predicted: str
    measured: str
    off: float

    @property
    def error(self) -> str:
        """`+3.1 %`."""
        return f"{100 * self.off:+.1f} %"


def foretold(report: ReportJson) -> list[Foretold]:
    """A row for every figure; none where nothing was predicted."""
    preflight = report.get("preflight")
    predicted = preflight["predicted"] if preflight else None
    if preflight is None or predicted is None:
        return []
    measured = preflight["measured"]

    def row(name: str, before: float, after: float, show: Callable[[float], str]) -> Foretold:
        return Foretold(name, show(before), show(after), after / before - 1 if before else 0.0)

    rows = [
        row("artifact", predicted["artifact_bytes"], measured["artifact_bytes"], human_bytes),
        row(
            "memory that no file backs",
            predicted["anonymous_bytes"],
            measured["anonymous_bytes"],
            human_bytes,
        ),
        row("memory with mapped files", predicted["peak_bytes"], measured["peak_bytes"], human_bytes),
    ]
    # Passes that came from the cache took no time.
    if not any(done["cached"] for done in report["passes"]):
        stages = ", ".join(predicted["seconds"])
        rows.append(
            row(
                f"time of {stages} (estimated)",
                predicted["estimated_seconds"],
                measured["seconds"],
                human_seconds,
            )
        )
    return rows
