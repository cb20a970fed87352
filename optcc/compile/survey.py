"""Preflight as a whole: a recipe and a model in; everything that is wrong with them, and what a compile takes, out."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from optcc.backends.protocol import Backend
from optcc.compile.extrapolate import WHOLE, extrapolate, shallow
from optcc.compile.plan import Plan, make_plan
from optcc.compile.prediction import Prediction, predict
from optcc.compile.preflight import backend_problems, module_problems, recipe_problems, remarks
from optcc.compile.progress import Progress
from optcc.compile.shorten import first_layers
from optcc.compile.sketch import Unforeseen
from optcc.errors import CannotWrite, NotEnoughMemory, OptccError
from optcc.frontend import LoadOptions, ModelSource, capture, resolve_shape
from optcc.frontend.lift import to_module
from optcc.frontend.model import layer_count
from optcc.host import memory_bytes
from optcc.ir.module import Module
from optcc.pm.context import Context
from optcc.pm.run import run_pass
from optcc.recipe import Recipe


@dataclass(frozen=True)
class Survey:
    """What preflight found.

    Attributes:
        problems: what a compile would be refused for, in the order in which it would be met.
        notes: what would be done otherwise than one might think.
        prediction: None where a problem is in the way.
    """

    problems: Sequence[OptccError]
    notes: Sequence[str] = field(default=())
    prediction: Prediction | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "problems": [dict(p.to_json()) for p in self.problems],
            "notes": list(self.notes),
            "predicted": self.prediction.to_json() if self.prediction else None,
        }


def load_options(recipe: Recipe) -> LoadOptions:
    """The recipe's `model:` section as the front end takes it."""
    return LoadOptions(**asdict(recipe.model) | {"pooling": recipe.model.pooling or "none"})


def captured(source: ModelSource, load: LoadOptions) -> Module:
    """The model's graph, before any pass."""
    return to_module(capture(source, load))


def survey(
    model: str, recipe: Recipe, backend: Backend, watch: Progress, *, out: Path, memory: int | None = None
) -> Survey:
    """Look for everything at once: what can't be looked at because of one problem is left out, all else is found.

    Args:
        model: as `compile_model` takes it; a directory with nothing but a `config.json` will do.
        recipe: resolved.
        backend: of the recipe.
        watch: told what happens.
        out: where the artifact would be.
        memory: bytes there are for serving; None for what this machine has.
    """
    problems = backend_problems(backend)
    plan = make_plan(recipe, backend, problems)
    problems += recipe_problems(recipe, plan)
    watch.stage("resolve")
    try:
        load = load_options(recipe)
        source = resolve_shape(model, load)
        layers, kinds = layer_count(source, load) if source.shape_only else (0, 0)
        counts = shallow(kinds)

        def seen(source: ModelSource, module: Module, before: int, out: Path | None) -> Survey:
            return look(module, before, source, recipe, plan, backend, problems, out=out, memory=memory)

        if layers > max(WHOLE, counts[1]):
            fewer, deeper = (replace(source, layers=n) for n in counts)
            module, before = _canonical(deeper, recipe, plan, backend, watch)
            more = seen(deeper, module, before, None)
            if more.prediction is None:
                return more
            if shorter := first_layers(module, counts[0]):
                below = before - module.weight_bytes() + shorter.weight_bytes()
            else:
                shorter, below = _canonical(fewer, recipe, plan, backend, watch)
            if few := seen(fewer, shorter, below, None).prediction:
                whole = extrapolate(few, more.prediction, counts, layers)
                return replace(more, problems=[*more.problems, *_resources(whole, out)], prediction=whole)
        return seen(source, *_canonical(source, recipe, plan, backend, watch), out)
    except OptccError as error:
        return Survey([*problems, error])


def _canonical(
    source: ModelSource, recipe: Recipe, plan: Plan, backend: Backend, watch: Progress
) -> tuple[Module, int]:
    """A model as preflight sees it, and the bytes of all weights before any pass."""
    watch.stage("capture")
    module = captured(source, load_options(recipe))
    before = module.weight_bytes()
    watch.stage("canonicalize")
    ctx = Context(backend.name, base=recipe.base)
    for step in plan.pipeline.passes[: plan.preflight_at]:
        run_pass(module, step, ctx, [])
    watch.stage("preflight")
    return module, before


def look(
    module: Module,
    captured_bytes: int,
    source: ModelSource,
    recipe: Recipe,
    plan: Plan,
    backend: Backend,
    problems: Sequence[OptccError] = (),
    *,
    out: Path | None = None,
    memory: int | None = None,
) -> Survey:
    """Preflight of a module that has been captured and canonicalized.

    Args:
        module: after the first `plan.preflight_at` passes; not changed.
        captured_bytes: of all weights before any pass.
        source, recipe, plan, backend: what is compiled.
        problems: that were found before.
        out: where the artifact will be; None asks for no space.
        memory: as of `survey`.
    """
    known = {(p.code, p.what) for p in problems}
    fresh = module_problems(module, backend, plan.stages["quantize"], recipe.base)
    found = [*problems, *(p for p in fresh if (p.code, p.what) not in known)]
    decoder: Any = module.attrs.get("decoder") or {}
    notes = remarks(recipe, source, str(module.attrs["kind"]), decoder.get("max_context"))
    notes += [
        f"`{step}` changes values on purpose: weights and structure have no limit" for step in plan.lossy
    ]
    if found:
        return Survey(found, notes)
    try:
        prediction = predict(module, captured_bytes, source, recipe, plan, backend, memory or memory_bytes())
    except OptccError as error:
        return Survey([error], notes)
    except Unforeseen as error:
        told = "what it does decides what the artifact is, so nothing is predicted"
        return Survey([], [*notes, *(f"`{name}` reads weights: {told}" for name in error.left_out)])
    told = "what it changes isn't in the prediction"
    notes = [*notes, *(f"`{name}` reads weights: {told}" for name in prediction.left_out)]
    return Survey(_resources(prediction, out), notes, prediction)


def _resources(found: Prediction, out: Path | None) -> list[OptccError]:
    """What the machine hasn't got."""
    problems: list[OptccError] = []
    have = memory_bytes()
    if found.peak.anonymous > have:
        problems.append(
            NotEnoughMemory(
                f"the compile will take an estimated {found.peak.anonymous / 1e9:.1f} GB of memory, "
                f"this machine has {have / 1e9:.1f} GB",
                hint="use a machine with more, or lower `check.window`",
            )
        )
    if out is not None:
        folder = out.resolve()
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        if free < found.disk_bytes:
            problems.append(
                CannotWrite(
                    f"the compile will write about {found.disk_bytes / 1e6:.1f} MB, {free / 1e6:.1f} MB are free",
                    where=str(folder),
                    hint="free some space, or choose a path on another disk",
                )
            )
    return problems
