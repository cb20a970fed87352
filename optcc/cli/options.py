"""Options that several verbs share beyond `common`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

F = TypeVar("F", bound=Callable[..., object])

overrides_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one value of the recipe, such as check.tokens=2048 or quantize.linear.scheme=int8-g64.",
)

threads_option = click.option(
    "--threads",
    type=click.IntRange(min=0),
    help="CPU threads; 0 takes every physical core. [default: the recipe's]",
)

force_option = click.option("--force", is_flag=True, help="Use an artifact that did not pass its check.")


def report_options(function: F) -> F:
    """Add `--junit FILE` and `--markdown FILE`; the verb gets `junit` and `markdown`, a path or None."""
    file = click.Path(path_type=Path, dir_okay=False)
    markdown = click.option(
        "--markdown", type=file, help="Also write the report as Markdown, for a pull request."
    )
    return click.option("--junit", type=file, help="Also write the report as JUnit XML, for CI.")(
        markdown(function)
    )
