"""What a compile will take and make, predicted from types alone: `optcc plan MODEL RECIPE`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from optcc.backends.protocol import Backend
    from optcc.compile.plan import Plan
    from optcc.compile.progress import Progress
    from optcc.frontend import LoadOptions, ModelSource
    from optcc.ir.module import Module
    from optcc.recipe import Recipe

_PROCESS = 450_000_000
"""Resident bytes of a process that has imported torch, transformers and a runtime, and captured a graph."""
_NODE = 400
"""Bytes of an operator in the artifact's two graphs."""


@dataclass(frozen=True)
class Prediction:
    """Before a weight is computed with.

    Attributes:
        model: the model's name.
        captured_bytes: all weights in the type the recipe loads them as.
        quantized: how many weights a scheme takes.
        artifact_bytes: the artifact's directory.
        peak_bytes: highest anonymous memory of the compile.
        how: the sums behind the two, for people.
    """

    model: str
    captured_bytes: int
    quantized: int
    artifact_bytes: int
    peak_bytes: int
    how: Mapping[str, str]


def predict(model: str, recipe: Recipe, plan: Plan, backend: Backend, watch: Progress) -> Prediction:
    """Resolve, capture and canonicalize the model, and look for what can't work.

    Raises:
        OptccError: all that a compile would refuse before it computes: the model, the capture, group sizes,
            operators the backend can't run.
    """
    from optcc.compile.ledger import intents
    from optcc.compile.preflight import preflight
    from optcc.frontend import resolve
    from optcc.pm.context import Context
    from optcc.pm.run import run_pass

    load = load_options(recipe)
    watch.stage("resolve")
    source = resolve(model, load)
    watch.stage("capture")
    module = captured(source, load)
    before = module.weight_bytes()
    watch.stage("canonicalize")
    ctx = Context(backend.name, base=recipe.base)
    for step in plan.pipeline.passes[: plan.preflight_at]:
        run_pass(module, step, ctx, [])
    watch.stage("preflight")
    preflight(module, backend, plan.stages["quantize"], recipe.base)
    promised = {i.name: i for i in intents(plan.stages["quantize"], module, recipe.base)}
    packed = sum(i.most_bytes for i in promised.values())
    plain = sum(module.weights.nbytes(name) for name in module.weights if name not in promised)
    largest = max((module.weights.nbytes(name) for name in module.weights), default=0)
    files = _tokenizer_bytes(source.directory)
    return Prediction(
        model=source.name,
        captured_bytes=before,
        quantized=len(promised),
        artifact_bytes=packed + plain + files + _NODE * module.count(),
        peak_bytes=_PROCESS + 3 * largest + (packed + plain if recipe.check.enabled else 0),
        how={
            "artifact": "quantized weights with scales + plain weights + tokenizer + 400 bytes per operator",
            "peak": "450 MB for the process + 3 x the largest weight"
            + (" + the artifact's weights once, for the check" if recipe.check.enabled else ""),
        },
    )


def load_options(recipe: Recipe) -> LoadOptions:
    """The recipe's `model:` section as the front end takes it."""
    from dataclasses import asdict

    from optcc.frontend import LoadOptions

    return LoadOptions(**asdict(recipe.model) | {"pooling": recipe.model.pooling or "none"})


def captured(source: ModelSource, load: LoadOptions) -> Module:
    """The model's graph, before any pass."""
    from optcc.frontend import capture
    from optcc.frontend.lift import to_module

    return to_module(capture(source, load))


def _tokenizer_bytes(directory: Path | None) -> int:
    names = ("tokenizer.json", "chat_template.jinja")
    return sum((directory / n).stat().st_size for n in names if (directory / n).is_file()) if directory else 0
