"""`optcc plan`: what a compile would run and be held to; with a model, what it would take and make."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from optcc.cli.common import common_options, print_json, print_pairs
from optcc.cli.options import overrides_option
from optcc.cli.survey import tell_survey

if TYPE_CHECKING:
    from optcc.backends.protocol import Backend
    from optcc.compile.plan import Plan
    from optcc.compile.survey import Survey
    from optcc.recipe import Recipe


@dataclass(frozen=True)
class Bound:
    """A limit and where it comes from."""

    metric: str
    value: float
    origin: str


@click.command("plan")
@click.argument("arguments", nargs=-1, required=True, metavar="[MODEL] RECIPE")
@click.option(
    "--preflight",
    is_flag=True,
    help="Print only what stands in the way, and what a compile of MODEL would take.",
)
@click.option(
    "--memory", metavar="SIZE", help="Memory there is for serving, as in 8GB; by default this machine's."
)
@overrides_option
@common_options
def command(
    arguments: tuple[str, ...], preflight: bool, memory: str | None, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Print the passes that RECIPE would run, and the limits it would be held to.

    The passes are printed as pipeline text, which parses back. With MODEL, the model is captured too:
    everything that a compile would refuse is found at once, and bytes, memory, disk, time and the longest
    context are predicted. No weight is read and nothing is written: a directory that holds a config.json and no
    weights will do.
    """
    if len(arguments) > 2:
        raise click.UsageError(f"expected [MODEL] RECIPE, got {len(arguments)} arguments")
    if len(arguments) == 1 and (preflight or memory):
        raise click.UsageError("--preflight and --memory need a MODEL")
    from optcc.cache import parse_size
    from optcc.recipe import load_recipe

    budget = None if memory is None else parse_size(memory)
    if memory is not None and budget is None:
        raise click.BadParameter(
            f"{memory!r} is no size; write bytes, or a unit as in 8GB", param_hint="--memory"
        )
    recipe = load_recipe(arguments[-1], overrides)
    from optcc.backends.registry import load_backend
    from optcc.compile.plan import make_plan

    backend = load_backend(recipe.target.backend)
    found = _survey(arguments[0], recipe, backend, budget, as_json) if len(arguments) == 2 else None
    plan = make_plan(recipe, backend)
    bounds = resolve_limits(recipe, plan, overrides)
    if as_json:
        print_json(_as_data(recipe, plan, bounds, found))
        return
    if not preflight:
        _tell(recipe, plan, bounds)
    if found:
        tell_survey(found, recipe.target.backend)


def _survey(model: str, recipe: Recipe, backend: Backend, budget: int | None, as_json: bool) -> Survey:
    """Preflight. Raises all problems together."""
    from optcc.cli.progress import progress
    from optcc.compile.survey import survey
    from optcc.errors import together

    with progress(quiet=as_json) as watch:
        found = survey(model, recipe, backend, watch, out=Path.cwd(), memory=budget)
    if found.problems:
        raise together(found.problems)
    return found


def resolve_limits(recipe: Recipe, plan: Plan, overrides: Iterable[str]) -> list[Bound]:
    """Every limit with its origin: the recipe (or one that it extends, or --set) wins over the schemes."""
    defaults = plan.default_limits(recipe.base)
    found = {metric: Bound(metric, limit.value, limit.origin) for metric, limit in defaults.items()}
    keys = {item.partition("=")[0].strip() for item in overrides}
    for metric, value in recipe.check.limits.items():
        origin = "--set" if f"check.limits.{metric}" in keys else _origin(recipe, metric, value)
        found[metric] = Bound(metric, value, origin)
    return list(found.values())


def _origin(recipe: Recipe, metric: str, value: float) -> str:
    """The recipe that says it: the furthest one down the chain of `extends` that says the same."""
    from optcc.recipe import list_presets, load_recipe

    origin = recipe.name
    for parent in recipe.extends:
        ref = parent if parent in list_presets() else recipe.base / parent
        if load_recipe(ref).check.limits.get(metric) != value:
            break
        origin = str(parent)
    return f"recipe {origin}"


def _as_data(recipe: Recipe, plan: Plan, bounds: list[Bound], found: Survey | None) -> dict[str, Any]:
    return {
        "recipe": recipe.to_json(),
        "pipeline": plan.text(),
        "stages": {stage: [str(p) for p in passes] for stage, passes in plan.stages.items()},
        "limits": [asdict(b) for b in bounds],
        "preflight": found.to_json() if found else None,
    }


def _tell(recipe: Recipe, plan: Plan, bounds: list[Bound]) -> None:
    target, check = recipe.target, recipe.check
    chain = " extends ".join([recipe.name, *recipe.extends])
    threads = f"{target.threads} threads" if target.threads else "one thread per physical core"
    checked = f"{', '.join(check.data)}: {check.tokens} tokens in windows of {check.window}"
    print_pairs(
        [
            ("recipe", chain),
            ("target", f"{target.backend} on {target.device}, {threads}"),
            ("model", f"loaded as {recipe.model.dtype}"),
            ("check", checked if check.enabled else "off"),
        ],
        indent=0,
    )
    click.echo("\nlimits" if bounds else "\nlimits: none")
    print_pairs((_relation(b), b.origin) for b in bounds)
    click.echo("\npasses")
    click.echo(_pipeline(plan))


def _relation(bound: Bound) -> str:
    from optcc.accuracy.gates import METRICS

    sign = "<=" if METRICS[bound.metric].direction == "at-most" else ">="
    return f"{bound.metric} {sign} {bound.value:g}"


def _pipeline(plan: Plan) -> str:
    """The pipeline, one pass a line, with a comment before each stage."""
    lines: list[str] = []
    left = len(plan.pipeline)
    for stage, passes in plan.stages.items():
        lines += [f"  # {stage}"] * bool(passes)
        for step in passes:
            left -= 1
            lines.append(f"  {step}{',' if left else ''}")
    return "\n".join(lines) or "  none: the graph is stored as captured"
