"""`optcc plan`: what a compile would run and be held to; with a model, what it would take and make."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from optcc.cli.common import common_options, human_bytes, print_json, print_pairs
from optcc.cli.options import overrides_option

if TYPE_CHECKING:
    from optcc.cli.predict import Prediction
    from optcc.compile.plan import Plan
    from optcc.recipe import Recipe


@dataclass(frozen=True)
class Bound:
    """A limit and where it comes from."""

    metric: str
    value: float
    origin: str


@click.command("plan")
@click.argument("arguments", nargs=-1, required=True, metavar="[MODEL] RECIPE")
@overrides_option
@common_options
def command(arguments: tuple[str, ...], overrides: tuple[str, ...], as_json: bool) -> None:
    """Print the passes that RECIPE would run, and the limits it would be held to.

    The passes are printed as pipeline text, which parses back. With MODEL, the model is captured too:
    everything that a compile would refuse is found, and the sizes are predicted. Nothing is written.
    """
    if len(arguments) > 2:
        raise click.UsageError(f"expected [MODEL] RECIPE, got {len(arguments)} arguments")
    from optcc.recipe import load_recipe

    recipe = load_recipe(arguments[-1], overrides)
    from optcc.backends.registry import load_backend
    from optcc.compile.plan import make_plan

    backend = load_backend(recipe.target.backend)
    plan = make_plan(recipe, backend)
    bounds = resolve_limits(recipe, plan, overrides)
    prediction = None
    if len(arguments) == 2:
        from optcc.cli.predict import predict
        from optcc.cli.progress import progress

        with progress(quiet=as_json) as watch:
            prediction = predict(arguments[0], recipe, plan, backend, watch)
    if as_json:
        print_json(_as_data(recipe, plan, bounds, prediction))
    else:
        _tell(recipe, plan, bounds, prediction)


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


def _as_data(
    recipe: Recipe, plan: Plan, bounds: list[Bound], prediction: Prediction | None
) -> dict[str, Any]:
    return {
        "recipe": recipe.to_json(),
        "pipeline": plan.text(),
        "stages": {stage: [str(p) for p in passes] for stage, passes in plan.stages.items()},
        "limits": [asdict(b) for b in bounds],
        "prediction": asdict(prediction) if prediction else None,
    }


def _tell(recipe: Recipe, plan: Plan, bounds: list[Bound], prediction: Prediction | None) -> None:
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
    if prediction:
        _tell_prediction(prediction)


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


def _tell_prediction(found: Prediction) -> None:
    click.echo(f"\nprediction for {found.model}: nothing stands in the way")
    captured, artifact = human_bytes(found.captured_bytes), human_bytes(found.artifact_bytes)
    ratio = found.captured_bytes / max(found.artifact_bytes, 1)
    smaller = f", {ratio:.2f}x smaller" if ratio > 1 else ""
    print_pairs(
        [
            ("weights", f"{captured} as captured, {found.quantized} tensors to be quantized"),
            ("artifact", f"about {artifact}{smaller}"),
            ("", f"= {found.how['artifact']}"),
            ("memory", f"about {human_bytes(found.peak_bytes)} at the peak"),
            ("", f"= {found.how['peak']}"),
        ]
    )
