"""A difference of two artifacts as Markdown, for a pull request."""

from __future__ import annotations

from optcc.diff.facts import ArtifactDiff, Change
from optcc.diff.words import accuracy_rows, change_cells, tensor_rows
from optcc.report.markdown import folded, table

_TENSORS = 200


def render_markdown(found: ArtifactDiff) -> str:
    """Accuracy, sizes and speed open; the rest behind summaries."""
    lines = [f"### `{found.left}` → `{found.right}`", ""]
    if found.identical:
        return "\n".join([*lines, "The same bytes.", ""])
    if found.accuracy:
        lines += table(("accuracy", "left", "right", "right is"), accuracy_rows(found.accuracy))
    if found.not_comparable:
        lines += [f"Accuracy not comparable: {found.not_comparable}.", ""]
    for title, changes in (("size", found.sizes), ("speed", found.speed)):
        if changes:
            lines += table((title, "left", "right", ""), [change_cells(c) for c in changes])
    lines += _folded("Recipe", (*found.model, *found.recipe))
    lines += _text(f"Pipeline, {len(found.pipeline)} lines", found.pipeline)
    graph = found.graph
    if graph.operators:
        rows = [(name, str(a), str(b)) for name, a, b in graph.operators]
        lines += folded("Operators", list(table(("operator", "left", "right"), rows)))
    lines += _text(f"Graph: {graph.removed} lines removed, {graph.added} added", graph.lines)
    if found.tensors:
        rows_shown = list(table(("tensor", "left", "right", "apart"), tensor_rows(found.tensors)[:_TENSORS]))
        lines += folded(f"{len(found.tensors)} tensors differ", rows_shown)
    return "\n".join(lines)


def _folded(title: str, changes: tuple[Change, ...]) -> list[str]:
    if not changes:
        return []
    rows = [change_cells(c)[:3] for c in changes]
    return folded(f"{title}: {len(changes)} values differ", list(table(("", "left", "right"), rows)))


def _text(title: str, lines: tuple[str, ...]) -> list[str]:
    return folded(title, ["```diff", *lines, "```", ""]) if lines else []
