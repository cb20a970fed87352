"""What `optcc check` writes for others: Markdown, JUnit XML, and the comparison with a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optcc.diff.baseline import Comparison


def write_reports(
    artifact: Path,
    model: str,
    check: Mapping[str, Any],
    comparison: Comparison | None,
    junit: Path | None,
    markdown: Path | None,
) -> None:
    """Write the files that were asked for; `check` has the shape of the report's. Raises CannotWrite."""
    from optcc.diff.baseline import baseline_cases, baseline_markdown
    from optcc.files import writing
    from optcc.report.junit import check_cases, suites
    from optcc.report.markdown import check_markdown

    if markdown is not None:
        against = baseline_markdown(comparison) if comparison else []
        with writing(markdown):
            markdown.write_text(check_markdown(str(artifact), model, check, against), encoding="utf-8")
    if junit is not None:
        cases = [*check_cases(check), *(baseline_cases(comparison) if comparison else [])]  # type: ignore[arg-type]
        found = check["measurements"]
        seconds = found["original_seconds"] + found["artifact_seconds"]
        with writing(junit):
            junit.write_text(suites(f"optcc check {artifact}", cases, seconds, {}), encoding="utf-8")


def tell_baseline(comparison: Comparison) -> None:
    """Print the comparison with a baseline."""
    from optcc.cli.accuracy_table import MARKS
    from optcc.cli.display import console, new_table, section
    from optcc.cli.table import STATUS
    from optcc.diff.baseline import baseline_rows

    screen = console()
    table = new_table("", "|baseline", "|now", "change [95 %]", "")
    for *cells, outcome in baseline_rows(comparison):
        mark, style = MARKS[outcome]
        table.add_row(*cells, f"{mark} {outcome}", style=style if outcome != "pass" else "")
    screen.print()
    section(screen, "against the baseline", table)
    if comparison.reason:
        screen.print(
            f"not comparable: {comparison.reason}; --write-baseline FILE keeps a new one", style="yellow"
        )
    screen.print(f"baseline: {comparison.status}", style=f"bold {STATUS[comparison.status]}")
