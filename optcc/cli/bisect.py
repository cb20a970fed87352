"""`optcc bisect`: which pass of a recipe broke a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from optcc.cli.common import common_options, print_json
from optcc.cli.options import overrides_option

if TYPE_CHECKING:
    from optcc.compile.bisect import BisectResult


@click.command("bisect")
@click.argument("model")
@click.argument("recipe")
@click.option(
    "--metric",
    type=click.Choice(["kl", "crash", "speed"]),
    default="kl",
    show_default=True,
    help="What went wrong: accuracy, a crash or NaN, or speed.",
)
@click.option(
    "--limit",
    type=float,
    help="kl: nats per token from the original; speed: tokens/s. [default: what each pass promises; a tenth slower]",
)
@click.option(
    "--cache", type=click.Path(path_type=Path, file_okay=False), help="Where finished passes are kept."
)
@overrides_option
@common_options
def command(
    model: str,
    recipe: str,
    metric: Literal["kl", "crash", "speed"],
    limit: float | None,
    cache: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> int:
    """Find the pass of RECIPE that broke MODEL, by binary search over what each pass left.

    Passes come from the cache, and run once where they are not in it. Without --limit, a pass is to blame when it
    moves what the model computes further than its contract allows.

    Exits 0 when the search ended, whether or not it found a pass.
    """
    from optcc.cli.progress import progress
    from optcc.recipe import load_recipe

    resolved = load_recipe(recipe, overrides)
    from optcc.cache import default_cache
    from optcc.compile.bisect import bisect

    with progress(quiet=as_json) as watch:
        found = bisect(model, resolved, recipe, metric, limit, cache or default_cache(), watch)
    if as_json:
        print_json(found.to_json())
    else:
        _tell(found)
    return 0


def _tell(found: BisectResult) -> None:
    if found.step is None:
        click.echo(f"{click.style('no pass to blame', bold=True)}: {found.told}")
    else:
        place = f"pass {found.place}" + (f", {found.line}" if found.line else "")
        click.echo(f"{click.style(found.step, fg='red', bold=True)}  ({place})")
        click.echo(f"  it {found.told}")
    if found.note:
        click.echo(f"  {found.note}")
    click.echo(f"  {len(found.probes)} questions, {found.runs} modules run:")
    for probe in found.probes:
        since = f" since {probe.since}" if probe.since else ""
        mark = click.style("bad ", fg="red") if probe.bad else click.style("good", fg="green")
        click.echo(f"    {mark} after {probe.point}{since}: {probe.told}")
    if found.diff:
        click.echo("  it changed:")
        for line in found.diff:
            click.echo(f"    {line}")
    for command in found.commands:
        click.echo(f"  {command}")
