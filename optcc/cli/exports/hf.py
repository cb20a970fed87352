"""`optcc export hf`: an artifact as a Hugging Face checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from optcc.cli.common import common_options, human_bytes, print_json, print_pairs


@click.command("hf")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="Directory of the checkpoint."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["compressed-tensors", "modelopt"]),
    help="Format of quantized weights; compressed-tensors unless only modelopt's holds them.",
)
@click.option(
    "--vocabulary",
    type=click.Choice(["plain", "packed"]),
    default="plain",
    show_default=True,
    help="How a quantized embedding or head is written.",
)
@click.option("--force", is_flag=True, help="Export an artifact that failed its accuracy check.")
@common_options
def command(artifact: Path, out: Path, form: str | None, vocabulary: str, force: bool, as_json: bool) -> None:
    """Write the ARTIFACT as a checkpoint directory that transformers, vLLM and others load.

    The checkpoint holds the artifact's own quantized values: packed weights, scales and zero points are read back after
    writing and compared to the bit. An embedding or head that is quantized is written as plain numbers of the same
    value, because few loaders read it packed; `--vocabulary packed` keeps it.
    """
    from optcc.export import export_hf
    from optcc.export.origin import open_for_export

    module, origin = open_for_export(artifact, force=force)
    done = export_hf(module, origin, out, format=form, vocabulary=vocabulary)
    if as_json:
        print_json(done.to_json())
        return
    rows = [("format", done.format), ("weights", human_bytes(done.bytes))]
    rows += [(name, f"{count} weights") for name, count in done.schemes.items()]
    rows.append(("read back", f"{done.compared} packed weights, equal to the bit"))
    rows += [("as plain numbers", name) for name in done.plain]
    click.echo(str(done.directory))
    print_pairs(rows)
