"""`optcc diff`: what differs between two artifacts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from optcc.cli.common import common_options, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from optcc.diff.facts import ArtifactDiff

DIFFERENT = 1
_MOST = 30
"""Rows and lines of one part that are printed; --json has all of them."""


@click.command("diff")
@click.argument("left", type=click.Path(path_type=Path), metavar="A")
@click.argument("right", type=click.Path(path_type=Path), metavar="B")
@click.option(
    "--tensors", "values", is_flag=True, help="Also compare all weights' values; reads both weight files."
)
@click.option(
    "--markdown",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write it as Markdown, for a pull request.",
)
@common_options
def command(left: Path, right: Path, values: bool, markdown: Path | None, as_json: bool) -> int:
    """Show what differs between the artifacts A and B: recipe, graph, tensors, sizes, accuracy and speed.

    Accuracy is compared window by window, which needs that both were checked on the same tokens; where they were not,
    it says so. Speed is shown when both were measured on the same processor. Reports are taken as they are; every
    other byte is checked against its hash.

    Exits 0 when the two are the same (their reports aside), 1 when they differ, 2 when one can't be read.
    """
    from optcc.artifact import Artifact
    from optcc.diff.facts import diff_artifacts

    found = diff_artifacts(Artifact.open(left, force=True), Artifact.open(right, force=True), values=values)
    if markdown is not None:
        from optcc.diff.markdown import render_markdown
        from optcc.files import writing

        with writing(markdown):
            markdown.write_text(render_markdown(found), encoding="utf-8")
    if as_json:
        print_json(found.to_json())
    else:
        _tell(found)
    return 0 if found.identical else DIFFERENT


def _tell(found: ArtifactDiff) -> None:
    from optcc.cli.display import console
    from optcc.diff.words import accuracy_rows, change_cells, tensor_rows

    screen = console()
    if found.identical:
        screen.print("the same bytes", style="bold green")
    _table(screen, "model and recipe", map(change_cells, (*found.model, *found.recipe)))
    _lines(screen, "pipeline", found.pipeline)
    graph = found.graph
    _table(screen, "operators", [(n, str(a), str(b), f"{b - a:+}") for n, a, b in graph.operators])
    if graph.removed or graph.added:
        title = f"graph: {graph.same} operators the same, {graph.removed} removed, {graph.added} added"
        _lines(screen, title, graph.lines)
    _table(screen, f"tensors: {len(found.tensors)} differ", tensor_rows(found.tensors))
    _table(screen, "sizes", map(change_cells, found.sizes))
    _table(screen, "accuracy", accuracy_rows(found.accuracy))
    if found.not_comparable:
        screen.print(f"accuracy not comparable: {found.not_comparable}", style="yellow")
        screen.print()
    _table(screen, "speed", map(change_cells, found.speed))


def _table(screen: Console, title: str, rows: Iterable[tuple[str, ...]]) -> None:
    from optcc.cli.display import new_table, section

    listed = list(rows)
    if not listed:
        return
    table = new_table("", "A", "B", "")
    for row in listed[:_MOST]:
        table.add_row(*row)
    if len(listed) > _MOST:
        table.add_row(f"and {len(listed) - _MOST} more", "", "", "", style="dim")
    section(screen, title, table)


def _lines(screen: Console, title: str, lines: Sequence[str]) -> None:
    from rich.text import Text

    from optcc.cli.display import section

    if not lines:
        return
    shown = [Text(line, style="red" if line.startswith("-") else "green") for line in lines[:_MOST]]
    if len(lines) > _MOST:
        shown.append(Text(f"and {len(lines) - _MOST} more lines", style="dim"))
    section(screen, title, Text("\n").join(shown))
