"""`optcc inspect`: what an artifact holds and how it came about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from optcc.cli.common import common_options, human_bytes, print_json, print_pairs

if TYPE_CHECKING:
    from optcc.artifact import Artifact


@click.command("inspect")
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--ir", is_flag=True, help="Print the graph as text.")
@click.option("--weights", is_flag=True, help="List every tensor.")
@click.option("--ledger", is_flag=True, help="Print every weight: scheme, storage, bytes and error.")
@click.option("--kernels", is_flag=True, help="Print what computes every operator over quantized weights.")
@click.option("--recipe", is_flag=True, help="Print the resolved recipe as YAML.")
@common_options
def command(
    directory: Path, ir: bool, weights: bool, ledger: bool, kernels: bool, recipe: bool, as_json: bool
) -> None:
    """Show what the artifact in DIR holds: model, recipe, passes, files, weights, and its report.

    Every byte is checked first. An artifact that failed its accuracy check can be inspected.
    """
    from optcc.artifact import Artifact

    if ir + weights + ledger + kernels + recipe > 1:
        raise click.UsageError("--ir, --weights, --ledger, --kernels and --recipe exclude each other")
    artifact = Artifact.open(directory, force=True)
    if ir:
        text = artifact.path("model.ir").read_text("utf-8")
        print_json({"ir": text}) if as_json else click.echo(text, nl=False)
    elif weights:
        _weights(artifact, as_json)
    elif ledger:
        from optcc.cli.ledger import print_ledger

        rows = artifact.report()["ledger"].get("rows", [])
        print_json(rows) if as_json else print_ledger(rows)
    elif kernels:
        _kernels(artifact, as_json)
    elif recipe:
        print_json(artifact.manifest.recipe) if as_json else click.echo(
            _yaml(artifact.manifest.recipe), nl=False
        )
    elif as_json:
        print_json(_as_data(artifact))
    else:
        _tell(artifact)


def _as_data(artifact: Artifact) -> dict[str, Any]:
    manifest = artifact.manifest
    return {
        "artifact": str(artifact.root),
        "digest": manifest.digest,
        "manifest": manifest.body(),
        "weights": {dtype: {"tensors": n, "bytes": size} for dtype, (n, size) in by_type(artifact).items()},
        "report": artifact.report(),
    }


def by_type(artifact: Artifact) -> dict[str, tuple[int, int]]:
    """Type of the stored tensors -> how many, and their bytes; the largest first."""
    count: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for info in artifact.weights().tensors.values():
        count[info.dtype] += 1
        size[info.dtype] += info.nbytes
    return {dtype: (count[dtype], size[dtype]) for dtype, _ in size.most_common()}


def _weights(artifact: Artifact, as_json: bool) -> None:
    found = artifact.weights().tensors
    if as_json:
        print_json(
            {n: {"dtype": i.dtype, "shape": list(i.shape), "bytes": i.nbytes} for n, i in found.items()}
        )
        return
    width = max(map(len, found), default=0)
    for name, info in found.items():
        click.echo(
            f"{name:<{width}}  {human_bytes(info.nbytes):>9}  {info.dtype}[{', '.join(map(str, info.shape))}]"
        )


def _kernels(artifact: Artifact, as_json: bool) -> None:
    from optcc.backends.registry import load_backend

    found = load_backend(artifact.manifest.target["backend"]).kernels(artifact.root)
    if as_json:
        print_json([asdict(use) for use in found])
        return
    if not found:
        click.echo("no operators over quantized weights")
    width = max((len(use.weight) for use in found), default=0)
    for use in found:
        reason = f": {use.reason}" if use.reason else ""
        click.echo(f"{use.weight:<{width}}  {use.kernel}{reason}")


def _tell(artifact: Artifact) -> None:
    from optcc.cli.accuracy_table import print_accuracy
    from optcc.cli.display import console
    from optcc.cli.table import print_cost, print_header, print_passes

    manifest, report, screen = artifact.manifest, artifact.report(), console()
    print_header(screen, report)
    target = manifest.target
    threads = f"{target['threads']} threads" if target["threads"] else "one thread per physical core"
    print_pairs(
        [
            ("digest", manifest.digest),
            ("model", f"{manifest.model.name}, digest {manifest.model.digest[:16]}…"),
            ("kind", manifest.kind),
            ("target", f"{target['backend']} on {target['device']}, {threads}"),
            ("needs", ", ".join(f"{name} >= {v}" for name, v in manifest.min_versions.items()) or "nothing"),
            ("written by", f"optcc {manifest.optcc_version}"),
        ]
    )
    click.echo("\nspec")
    print_pairs((key, _short(value)) for key, value in manifest.spec.items())
    click.echo("\nfiles")
    print_pairs((name, human_bytes(entry.bytes)) for name, entry in manifest.files.items())
    click.echo("\nweights")
    print_pairs(
        (dtype, f"{n} tensors, {human_bytes(size)}") for dtype, (n, size) in by_type(artifact).items()
    )
    click.echo()
    print_passes(screen, report)
    if report["check"]:
        print_accuracy(screen, report["check"])
        screen.print()
    print_cost(screen, report)


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v['type'] if isinstance(v, Mapping) else v}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _yaml(recipe: Mapping[str, Any]) -> str:
    """The recipe as YAML that `optcc compile` takes."""
    import io

    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.representer.sort_base_mapping_type_on_output = False
    yaml.width = 100
    out = io.StringIO()
    yaml.dump(dict(recipe), out)
    return out.getvalue()
