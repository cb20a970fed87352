"""`optcc rebuild`: the same bytes again, or exactly what differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from optcc.cli.common import common_options, print_json

if TYPE_CHECKING:
    from optcc.compile.lock import Difference

DIFFERENT = 1
_MOST = 40


@click.command("rebuild")
@click.argument("directory", type=click.Path(path_type=Path), metavar="ARTIFACT")
@click.argument("model", required=False)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Directory of the new artifact.")
@click.option("--dry-run", is_flag=True, help="Only say what differs from when it was made; compile nothing.")
@click.option(
    "--base",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where the files are that the recipe names. [default: where they were]",
)
@click.option(
    "--use-cache", is_flag=True, help="Take over finished passes from the cache. Quicker, and proves less."
)
@common_options
def command(
    directory: Path,
    model: str | None,
    out: Path | None,
    dry_run: bool,
    base: Path | None,
    use_cache: bool,
    as_json: bool,
) -> int:
    """Compile what ARTIFACT was made from again, and compare every byte.

    The lock in the artifact pins the model's files, the recipe, data, threads, and the versions of everything that
    computes. What differs here is said first. MODEL is where the model is now, if not where it was.

    Exits 0 when the two artifacts are the same, 1 when they are not (with --dry-run: when something differs from the
    lock), 2 when MODEL is another model or the artifact has no lock.
    """
    if dry_run == (out is not None):
        raise click.UsageError("give either -o DIR or --dry-run")
    from optcc.cache import default_cache
    from optcc.cli.compile import check_out
    from optcc.cli.progress import progress
    from optcc.compile.rebuild import rebuild, request

    if out is not None:
        check_out(out.resolve())
    asked = request(directory, model, base)
    if not as_json:
        _tell(f"since {directory} was made", asked.before, "nothing differs from what the lock pins")
    if out is None:
        if as_json:
            print_json({"artifact": str(directory), "before": [asdict(d) for d in asked.before]})
        return DIFFERENT if asked.before else 0
    with progress(quiet=as_json) as watch:
        found = rebuild(asked, out, watch, default_cache() if use_cache else None)
    if as_json:
        print_json(
            {
                "artifact": str(directory),
                "again": str(out),
                "same": found.same,
                "was": found.was,
                "now": found.now,
                "before": [asdict(d) for d in found.before],
                "after": [asdict(d) for d in found.after],
            }
        )
    elif found.same:
        click.echo(f"{out}: the same bytes, digest {found.now}")
        _tell("though", found.after, "")
    else:
        _tell(f"{out} differs from {directory}", found.after, "")
    return 0 if found.same else DIFFERENT


def _tell(title: str, found: Sequence[Difference], none: str) -> None:
    if not found:
        if none:
            click.echo(none)
        return
    click.echo(f"{title}:")
    for difference in found[:_MOST]:
        click.echo(f"  {difference}")
    if len(found) > _MOST:
        click.echo(f"  and {len(found) - _MOST} more; --json lists them")
