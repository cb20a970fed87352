"""`optcc compile`: a model and a recipe in, a checked artifact and its report out."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from optcc.cli.common import common_options, print_json
from optcc.cli.options import overrides_option, report_options

if TYPE_CHECKING:
    from optcc.compile import CompileOptions, CompileResult
    from optcc.recipe import Recipe

GATE_FAILED = 1


@click.command("compile")
@click.argument("model")
@click.argument("recipe")
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="Directory of the artifact."
)
@overrides_option
@click.option("--no-cache", is_flag=True, help="Keep no finished passes and use none.")
@click.option(
    "--cache", type=click.Path(path_type=Path, file_okay=False), help="Where finished passes are kept."
)
@click.option(
    "--dump-ir", type=click.Path(path_type=Path), help="Write the graph after every pass into this directory."
)
@click.option("--diff", is_flag=True, help="Print what every pass changed to stderr.")
@click.option(
    "--prove",
    type=click.Choice(["each", "stages", "end"]),
    default="end",
    show_default=True,
    help="Hold every pass or stage, and every lowered operator, to what it promises on real tokens; "
    "`end` checks the artifact alone.",
)
@click.option("--no-speed", is_flag=True, help="Don't measure tokens per second.")
@report_options
@common_options
def command(
    model: str,
    recipe: str,
    out: Path,
    overrides: tuple[str, ...],
    no_cache: bool,
    cache: Path | None,
    dump_ir: Path | None,
    diff: bool,
    prove: Literal["each", "stages", "end"],
    no_speed: bool,
    junit: Path | None,
    markdown: Path | None,
    as_json: bool,
) -> int:
    """Compile MODEL with RECIPE into the artifact DIR, and check it against the original.

    MODEL is a transformers directory, a .gguf file, a hub id, or package.module:factory. RECIPE is a built-in
    name (`optcc recipes` lists them) or a YAML file.

    Exits 1 when a limit of the recipe failed or could not be decided. The artifact is written all the same,
    marked as failed, and `optcc run` refuses it.
    """
    if no_cache and cache is not None:
        raise click.UsageError("--no-cache and --cache exclude each other")
    from optcc.cli.progress import progress
    from optcc.recipe import load_recipe

    resolved = load_recipe(recipe, overrides)
    check_out(out.resolve())
    from optcc.compile import Command, CompileOptions, compile_model

    rest = [word for value in overrides for word in ("--set", value)]
    rest += ["--prove", prove] if prove != "end" else []
    asked = Command(model, recipe, str(out), rest + ["--no-speed"] * no_speed)
    options = CompileOptions(dump_ir=dump_ir, diff=diff, speed=not no_speed, prove=prove, command=asked)
    options = _with_cache(options, no_cache, cache)
    with progress(quiet=as_json) as watch:
        result = compile_model(model, resolved, out, options, watch)
    _write_reports(out, junit, markdown)
    if as_json:
        print_json({"artifact": str(out), **result.report.to_json()})
    else:
        _tell(result, resolved, model)
    return 0 if result.ok else GATE_FAILED


def check_out(out: Path) -> None:
    """Refuse before any work what the writer would refuse after it.

    Raises:
        OutputInTheWay: something else is there.
        CannotWrite: nothing may be written there.
    """
    from optcc.artifact.writer import check_replaceable
    from optcc.files import write_error

    folder = out.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise write_error(NotADirectoryError(errno.ENOTDIR, ""), out)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise write_error(PermissionError(errno.EACCES, ""), out)
    check_replaceable(out)


def _write_reports(out: Path, junit: Path | None, markdown: Path | None) -> None:
    from optcc.artifact import Artifact
    from optcc.cli.report import render
    from optcc.files import writing

    for form, path in (("junit", junit), ("md", markdown)):
        if path is not None:
            with writing(path):
                path.write_text(render(Artifact.open(out, force=True, verify=False), form), encoding="utf-8")


def _with_cache(options: CompileOptions, no_cache: bool, cache: Path | None) -> CompileOptions:
    if no_cache:
        return dataclasses.replace(options, cache=None)
    return dataclasses.replace(options, cache=cache) if cache else options


def _tell(result: CompileResult, recipe: Recipe, model: str) -> None:
    from optcc.cli.accuracy_table import mending
    from optcc.cli.display import console
    from optcc.cli.table import print_report

    screen, report, out = console(), result.report.to_json(), result.artifact
    print_report(screen, report)
    screen.print()
    if result.ok:
        screen.print(str(out), style="bold green", soft_wrap=True)
        ask = (
            f'optcc run {out} "…"'
            if _generates(out)
            else f"optcc run {out} --inputs inputs.npz -o outputs.npz"
        )
        screen.print(f"  {ask}", soft_wrap=True)
        screen.print(f"  optcc inspect {out}", soft_wrap=True)
        screen.print(f"  {out / 'report' / 'report.html'}   is the report for others", soft_wrap=True)
        return
    screen.print(
        f"{out}: written, but it did not pass its limits, so `optcc run` refuses it",
        style="red",
        soft_wrap=True,
    )
    assert report["check"] is not None
    for line in mending(report["check"], recipe.to_json()):
        screen.print(f"  {line}", soft_wrap=True)
    screen.print(f"  optcc check {out} {model}   measures it again, with --limit or --tokens", soft_wrap=True)


def _generates(out: Path) -> bool:
    from optcc.artifact import Artifact

    return Artifact.open(out, force=True, verify=False).kind == "decoder"
