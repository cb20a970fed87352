"""`optcc verify`: every byte of an artifact against its hashes."""

from __future__ import annotations

from pathlib import Path

import click

from optcc.cli.common import common_options, human_bytes, print_json, print_pairs
from optcc.errors import CorruptArtifact


@click.command("verify")
@click.argument("directory", type=click.Path(path_type=Path))
@common_options
def command(directory: Path, as_json: bool) -> None:
    """Check every file of the artifact in DIRECTORY against the hashes in its manifest and its report.

    Exits 2 if one byte differs, or if a file is missing or doesn't belong.
    """
    from optcc.artifact import verify_artifact

    report = verify_artifact(directory)
    if as_json:
        print_json(report.to_json())
    elif report.ok:
        click.echo(
            f"{directory}: {report.files} files, {human_bytes(report.bytes)}, every byte as it was written"
        )
        click.echo(f"digest {report.digest}")
    else:
        print_pairs((f"{problem.kind}:", f"{problem.path} ({problem.detail})") for problem in report.problems)
        report.raise_if_damaged()
    click.get_current_context().exit(0 if report.ok else CorruptArtifact.exit_code)
