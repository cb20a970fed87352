"""`optcc blame`: which layers and weights carry the loss, and a recipe that recovers it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from optcc.cli.common import common_options, print_json
from optcc.cli.options import overrides_option

if TYPE_CHECKING:
    from optcc.compile.blame import BlameOptions, BlameResult
    from optcc.compile.progress import Progress
    from optcc.recipe import Recipe

_ROWS = 16


@click.command("blame")
@click.argument("first", metavar="ARTIFACT|MODEL")
@click.argument("second", metavar="MODEL|RECIPE")
@click.option(
    "--probes", type=click.IntRange(min=4), default=24, show_default=True, help="Measurements at most."
)
@click.option(
    "--tokens", type=click.IntRange(min=64), default=256, show_default=True, help="Of text, for each."
)
@click.option(
    "--recover", type=click.FloatRange(0.05, 1.0), default=0.85, show_default=True, help="Share of the loss."
)
@click.option(
    "--patch", "patch", type=click.Path(path_type=Path, dir_okay=False), help="Write the changed recipe here."
)
@click.option(
    "--apply", "out", type=click.Path(path_type=Path), help="Compile with the patch into this directory."
)
@click.option(
    "--cache", type=click.Path(path_type=Path, file_okay=False), help="Where finished passes are kept."
)
@overrides_option
@common_options
def command(
    first: str,
    second: str,
    probes: int,
    tokens: int,
    recover: float,
    patch: Path | None,
    out: Path | None,
    cache: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> int:
    """Find what carries the loss of ARTIFACT, compiled from MODEL; or of what RECIPE makes of MODEL.

    Layers, weights, and the rounding of activations and of the KV cache are put back to the original's, in groups
    first, and the KL divergence is measured each time. Ends with a changed recipe that recovers most of the loss.

    Exits 0 when the measurements are done, 1 when --apply was given and the new artifact doesn't pass its limits.
    """
    from optcc.cli.progress import progress
    from optcc.compile.blame import BlameOptions, blame_artifact, blame_recipe

    options = BlameOptions(probes=probes, window=tokens // 2, target=recover)
    options = dataclasses.replace(options, cache=cache) if cache else options
    root = Path(first) if (Path(first) / "manifest.json").is_file() else None
    model = first if root is None else second
    with progress(quiet=as_json) as watch:
        if root is None:
            from optcc.recipe import load_recipe

            recipe = load_recipe(second, overrides)
            extends = _extended(second) if not overrides else None
            result = blame_recipe(model, recipe, extends, options, watch)
        else:
            if overrides:
                raise click.UsageError("--set is for MODEL RECIPE: an artifact has its recipe in it")
            recipe = _recipe_of(root)
            result = blame_artifact(root, model, recipe, options, watch)
        applied = _apply(model, result, patch, out, options, watch)
    if as_json:
        print_json({**result.to_json(), "applied": applied})
    else:
        _tell(result, applied, patch)
    return 1 if applied and applied["status"] == "failed" else 0


def _extended(ref: str) -> str:
    """How a patch, wherever it is written, names the recipe that it extends."""
    return str(Path(ref).absolute()) if "/" in ref or ref.endswith(".yaml") else ref


def _recipe_of(root: Path) -> Recipe:
    """The recipe that an artifact was compiled with; files that it names are relative to where we are."""
    import json
    import tempfile

    from optcc.artifact import Artifact
    from optcc.recipe import load_recipe

    written = Artifact.open(root, force=True).manifest.recipe
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", dir=Path.cwd(), prefix=".optcc-blame-") as file:
        json.dump(written, file)
        file.flush()
        return load_recipe(Path(file.name))


def _apply(
    model: str,
    result: BlameResult,
    path: Path | None,
    out: Path | None,
    options: BlameOptions,
    watch: Progress,
) -> dict[str, Any] | None:
    """Write the patch where asked, compile with it where asked, and say what it recovered."""
    import tempfile

    from optcc.files import writing
    from optcc.recipe import load_recipe

    if result.patch is None:
        return None
    if path is not None:
        with writing(path):
            path.write_text(result.patch.text)
    if out is None:
        return None
    from optcc.compile import CompileOptions, compile_model
    from optcc.compile.blame import blame_artifact

    with tempfile.NamedTemporaryFile("w", suffix=".yaml", dir=Path.cwd(), prefix=".optcc-patch-") as file:
        file.write(result.patch.text)
        file.flush()
        recipe = load_recipe(Path(file.name))
        compiled = compile_model(model, recipe, out, CompileOptions(cache=options.cache, speed=False), watch)
        after = blame_artifact(out, model, recipe, dataclasses.replace(options, probes=0), watch)
    loss, rest = result.loss.value, after.loss.value
    return {
        "artifact": str(out),
        "status": compiled.report.status,
        "artifact_bytes": compiled.report.artifact_bytes,
        "loss": after.loss.to_json(),
        "recovered_share": (loss - rest) / loss if loss else 0.0,
    }


def _tell(result: BlameResult, applied: dict[str, Any] | None, path: Path | None) -> None:
    loss = result.loss
    click.echo(
        f"loss: KL {loss.value:.4g} [{loss.low:.3g}, {loss.high:.3g}] nats per token on {result.tokens} tokens"
    )
    click.echo(click.style(result.cause, bold=True))
    for carrier in result.carriers[:_ROWS]:
        found = carrier.effect.recovered
        interval = f"[{found.low:.2g}, {found.high:.2g}]"
        how = "" if carrier.how == "measured" else f"  ({carrier.how})"
        click.echo(f"  {carrier.effect.share:>6.0%}  {found.value:.3g} {interval:<22} {carrier.name}{how}")
    for note in result.notes:
        click.echo(f"  note: {note}")
    patch = result.patch
    if patch is None:
        return
    from optcc.compile.blame.patch import summary

    share = f"; recovers {patch.effect.share:.0%} of the loss" if patch.effect else ""
    what = summary(patch.upgrades) if patch.upgrades else "leaves a pass out"
    click.echo(f"\npatch: {what}{share}\n")
    click.echo(patch.text)
    if applied is not None:
        click.echo(
            f"{applied['artifact']}: {applied['status']}, KL {applied['loss']['value']:.4g}: "
            f"{applied['recovered_share']:.0%} of the loss recovered"
        )
    else:
        where = str(path) if path else "PATCH.yaml"
        click.echo(f"  optcc compile MODEL {where} -o OUT   (or --apply OUT, which measures it again)")
