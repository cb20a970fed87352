"""Options that several verbs share beyond `common`."""

from __future__ import annotations

import click

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
