"""`optcc report`: the report of an artifact in the form that others read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from optcc.cli.common import common_options

if TYPE_CHECKING:
    from optcc.artifact import Artifact

FORMATS = ("html", "md", "junit", "json")


@click.command("report")
@click.argument("directory", type=click.Path(path_type=Path), metavar="ARTIFACT")
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="html", show_default=True, help="Which form."
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write. [default: stdout]"
)
@common_options
def command(directory: Path, form: str, out: Path | None, as_json: bool) -> None:
    """Write the report of ARTIFACT: one HTML file, Markdown for a pull request, JUnit XML, or JSON.

    The HTML needs no network. `--json` is short for `--format json`. Nothing is measured; `optcc check` does that.
    """
    from optcc.artifact import Artifact
    from optcc.files import writing

    text = render(Artifact.open(directory, force=True), "json" if as_json else form)
    if out is None:
        click.echo(text, nl=False)
        return
    with writing(out):
        out.write_text(text, encoding="utf-8")


def render(artifact: Artifact, form: str) -> str:
    """The report of an opened artifact in one of `FORMATS`."""
    from optcc.artifact import canonical_json

    report = artifact.report()
    if form == "html":
        from optcc.report.html import render_html

        return render_html(report, artifact.manifest.body())
    if form == "md":
        from optcc.report.markdown import render_markdown

        return render_markdown(report)
    if form == "junit":
        from optcc.report.junit import render_junit

        return render_junit(report)
    return canonical_json(report).decode()
