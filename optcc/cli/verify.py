"""`optcc verify`: every byte of an artifact against its hashes."""

from __future__ import annotations

from pathlib import Path

import click

from optcc.cli.common import common_options, print_json


@click.command("verify")
@click.argument("directory", type=click.Path(path_type=Path))
@common_options
def command(directory: Path, as_json: bool) -> None:
    """Check every file of the artifact in DIRECTORY against the hashes in its manifest and its report.

    Prints what was checked. Exits 2 with error E602 if one byte differs or a file is missing.
    """
    from optcc.artifact import verify_artifact

    verify_artifact(directory)
    if as_json:
        print_json({"artifact": str(directory), "intact": True})
    else:
        click.echo(f"{directory}: intact")
