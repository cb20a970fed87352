"""`optcc check`: an existing artifact against the model it was made from."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from optcc.cli.check_reports import tell_baseline, write_reports
from optcc.cli.common import common_options, print_json
from optcc.cli.options import overrides_option, report_options, threads_option

if TYPE_CHECKING:
    from optcc.artifact import Artifact
    from optcc.compile.gate import Checked
    from optcc.frontend import ModelSource
    from optcc.recipe import Recipe

GATE_FAILED = 1


@click.command("check")
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.argument("model")
@overrides_option
@click.option("--limit", "limits", multiple=True, metavar="METRIC=VALUE", help="Its limit, such as kl=0.01.")
@click.option("--data", multiple=True, metavar="TEXT", help="prose, code, chat, or a text or JSONL file.")
@click.option("--tokens", type=click.IntRange(min=1), help="Tokens to compare, over all texts.")
@threads_option
@click.option(
    "--baseline",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also hold it against an earlier check, kept by --write-baseline.",
)
@click.option(
    "--write-baseline",
    "kept",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Keep this check as a file to commit.",
)
@report_options
@common_options
def command(
    directory: Path,
    model: str,
    overrides: tuple[str, ...],
    limits: tuple[str, ...],
    data: tuple[str, ...],
    tokens: int | None,
    threads: int | None,
    baseline: Path | None,
    kept: Path | None,
    junit: Path | None,
    markdown: Path | None,
    as_json: bool,
) -> int:
    """Measure the artifact in DIR against MODEL, the original that it was compiled from.

    Texts, sizes and limits are those of the recipe it was compiled with, unless options say otherwise.
    Exits 1 when a limit failed or is undecided, or when it is worse than the baseline or that is undecided. The
    artifact and its report stay as they are.
    """
    from optcc.diff.baseline import compare_baseline, read_baseline, write_baseline

    before = read_baseline(baseline) if baseline else None
    wanted = [*overrides, *changes(limits, data, tokens)]
    artifact, recipe, checked = check_again(directory, model, wanted, threads, quiet=as_json)
    found = checked.to_json()
    comparison = compare_baseline(before, found, artifact.bytes) if before else None
    if kept is not None:
        write_baseline(kept, artifact, found)
    write_reports(directory, model, found, comparison, junit, markdown)
    if as_json:
        against = {"baseline": comparison.to_json()} if comparison else {}
        print_json({"artifact": str(directory), "status": checked.gate.status, **found, **against})
    else:
        _tell(artifact, checked, recipe)
        if comparison:
            tell_baseline(comparison)
    return 0 if checked.status == "ok" and (not comparison or comparison.status == "ok") else GATE_FAILED


def changes(limits: Sequence[str], data: Sequence[str], tokens: int | None) -> list[str]:
    """What the options come to, as `--set` would have it. Raises BadCheckData for a file that isn't there."""
    found = [f"check.limits.{limit}" for limit in limits]
    found += [f"check.data={json.dumps([_whole(name) for name in data])}"] if data else []
    return found + ([f"check.tokens={tokens}"] if tokens is not None else [])


def check_again(
    directory: Path, model: str, overrides: Sequence[str], threads: int | None, *, quiet: bool
) -> tuple[Artifact, Recipe, Checked]:
    """Measure an artifact against its original, as the verb does.

    Args:
        directory: of the artifact.
        model: that it was compiled from.
        overrides: of the recipe's `check`.
        threads: None takes the recipe's.
        quiet: draw no progress.

    Raises:
        NotAnArtifact, CorruptArtifact, IncompatibleArtifact, BadOverride, BadCheckData, and what resolving raises.
    """
    from optcc.artifact import Artifact
    from optcc.cli.progress import progress

    artifact = Artifact.open(directory, force=True)
    artifact.check_packages()
    recipe = check_recipe(artifact, overrides)
    with progress(quiet=quiet) as watch:
        watch.stage("resolve")
        source = _same_model(artifact, model, recipe)
        watch.stage("check")
        return artifact, recipe, _measure(artifact, source, recipe, threads, watch.step)


def _whole(name: str) -> str:
    """A file's absolute path; built-in texts as they are. Raises BadCheckData without such a file."""
    from optcc.errors import BadCheckData

    if "." not in name and "/" not in name:
        return name
    if not Path(name).is_file():
        raise BadCheckData(
            f"there is no file {name}", where=f"--data {name}", hint="or give prose, code or chat"
        )
    return str(Path(name).absolute())


def check_recipe(artifact: Artifact, overrides: Sequence[str]) -> Recipe:
    """The recipe the artifact was compiled with: loading options and check, with `overrides` applied.

    Limits are those that the compile judged by, the schemes' defaults among them.

    Raises:
        BadOverride: not a `check.…` key, or not a value it can have.
    """
    from optcc.errors import BadOverride
    from optcc.recipe import load_recipe

    for item in overrides:
        if not item.startswith("check."):
            raise BadOverride(
                "only `check.…` can be changed here: the artifact is compiled already",
                where=f"--set {item}",
                hint="compile it again with another recipe",
            )
    written = artifact.manifest.recipe
    check = {**written["check"], "limits": _limits(artifact), "enabled": True}
    document = {**{key: written[key] for key in ("version", "name", "model", "target")}, "check": check}
    with tempfile.TemporaryDirectory(prefix="optcc-check-") as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(json.dumps(document))
        return load_recipe(path, overrides)


def _limits(artifact: Artifact) -> dict[str, float]:
    report: Mapping[str, Any] = artifact.report()
    judged = report["check"]["gate"]["verdicts"] if report["check"] else []
    return {v["metric"]: v["limit"] for v in judged} or dict(artifact.manifest.recipe["check"]["limits"])


def _same_model(artifact: Artifact, model: str, recipe: Recipe) -> ModelSource:
    """The model, if it is the one that was compiled.

    Raises:
        IncompatibleArtifact: it is another one.
    """
    from optcc.compile.survey import load_options
    from optcc.errors import IncompatibleArtifact
    from optcc.frontend import resolve

    source = resolve(model, load_options(recipe))
    compiled = artifact.manifest.model
    if source.digest != compiled.digest:
        raise IncompatibleArtifact(
            f"model.digest: the artifact was compiled from {compiled.name} with digest {compiled.digest}, "
            f"{model} has {source.digest}",
            where=str(artifact.root),
            hint="give the model that it was compiled from",
        )
    return source


def _measure(
    artifact: Artifact, source: ModelSource, recipe: Recipe, threads: int | None, watch: Any
) -> Checked:
    import dataclasses

    import torch

    from optcc.cli.opening import thread_count
    from optcc.compile.check import check_artifact
    from optcc.compile.pair import Subject
    from optcc.compile.survey import load_options

    count = thread_count(artifact, threads)
    torch.set_num_threads(count)
    data = tuple(_located(name, recipe.base) for name in recipe.check.data)
    options, limits = dataclasses.replace(recipe.check, data=data), recipe.check.limits
    subject = Subject(source, load_options(recipe))
    return check_artifact(artifact.root, artifact.manifest, subject, options, limits, watch, count)


def _located(name: str, base: Path) -> str:
    """A file that the command line named is relative to `base` by now; others to where we are."""
    found = Path(os.path.normpath(base / name))  # `base` itself is gone by now
    return str(found) if ("." in name or "/" in name) and found.is_file() else name


def _tell(artifact: Artifact, checked: Checked, recipe: Recipe) -> None:
    from optcc.cli.accuracy_table import mending, print_accuracy
    from optcc.cli.display import console
    from optcc.cli.table import STATUS

    screen, found = console(), checked.to_json()
    screen.print()
    print_accuracy(screen, found)
    screen.print()
    status = checked.gate.status
    screen.print(f"{artifact.root}: {status}", style=f"bold {STATUS[status]}", soft_wrap=True)
    if status != "ok":
        for line in mending(found, {**artifact.manifest.recipe, "check": recipe.to_json()["check"]}):
            screen.print(f"  {line}", soft_wrap=True)
