"""`optcc blame`, start to end: measure the loss, find what carries it, and propose a recipe that recovers it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optcc.accuracy.intervals import Estimate
from optcc.artifact import Artifact
from optcc.backends.registry import load_backend
from optcc.cache import default_cache
from optcc.compile.blame.hybrid import Hybrid
from optcc.compile.blame.later import changed_by
from optcc.compile.blame.patch import Patch, check_patchable, choose, summary, write_patch
from optcc.compile.blame.search import ENOUGH, Carrier, find_everywhere, find_parts, find_tensors
from optcc.compile.blame.side import Side
from optcc.compile.blame.tensors import Putter
from optcc.compile.points import Points, open_points
from optcc.compile.progress import Progress, Silent
from optcc.compile.proof.data import proof_data
from optcc.compile.proof.run import run_all
from optcc.errors import IncompatibleArtifact
from optcc.ir.module import Module
from optcc.quant.divergence import Reference
from optcc.recipe import Recipe

_PREPARES = ("quantize.awq", "quantize.smoothquant")
_ROUNDING = ("activations", "cache")
_SPREAD = 0.3
_CLEAN = 0.02
"""A loss of this share before any weight is packed is rounding."""


@dataclass(frozen=True)
class BlameOptions:
    """How hard to look.

    Attributes:
        probes: measurements at most, besides those of the patch; 0 measures the loss alone.
        windows, window: text that each is made on.
        target: share of the loss that the patch is to recover.
        cache: where finished passes are kept.
    """

    probes: int = 24
    windows: int = 2
    window: int = 128
    target: float = 0.85
    cache: Path | None = field(default_factory=default_cache)


@dataclass(frozen=True)
class BlameResult:
    """What carries the loss.

    Attributes:
        loss: KL(original || compiled), nats per row.
        before: the part of it that is there before any weight is packed.
        carriers: layers, tensors and groups, those that recover most first.
        patch: a recipe that recovers most of it; None where no weight carries it.
        cause: one sentence.
        probes: how many measurements.
        tokens: that each was made on.
        notes: for people.
    """

    loss: Estimate
    before: float
    carriers: tuple[Carrier, ...]
    patch: Patch | None
    cause: str
    probes: int
    tokens: int
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "version": 1,
            "loss": self.loss.to_json(),
            "before_quantization": self.before,
            "carriers": [c.to_json() for c in self.carriers],
            "patch": self.patch.to_json() if self.patch else None,
            "cause": self.cause,
            "probes": self.probes,
            "tokens": self.tokens,
            "notes": list(self.notes),
        }


def blame_recipe(
    model: str,
    recipe: Recipe,
    extends: str | None,
    options: BlameOptions | None = None,
    progress: Progress | None = None,
) -> BlameResult:
    """Blame what a recipe makes of a model; nothing is lowered.

    Args:
        model: as of `compile_model`.
        recipe: resolved.
        extends: what the patch extends: the recipe's name or file; None writes everything out.
        options: how hard to look.
        progress: told what happens.

    Raises:
        NothingToBlame: the model has no residual stream.
    """
    options, watch = options or BlameOptions(), progress or Silent()
    with open_points(model, recipe, options.cache, watch) as points:
        return _blame(points, points.at(len(points.steps)), extends, options, watch, whole=True)


def blame_artifact(
    root: Path,
    model: str,
    recipe: Recipe,
    options: BlameOptions | None = None,
    progress: Progress | None = None,
) -> BlameResult:
    """Blame what an artifact holds, from its own files.

    Args:
        root: the artifact's directory.
        model: what it was compiled from.
        recipe: that it was compiled with.
        options, progress: as of `blame_recipe`.

    Raises:
        IncompatibleArtifact: it was compiled from another model.
        NothingToBlame: as of `blame_recipe`.
    """
    options, watch = options or BlameOptions(), progress or Silent()
    artifact = Artifact.open(root, force=True)
    with open_points(model, recipe, options.cache, watch) as points:
        if points.source.digest != artifact.manifest.model.digest:
            raise IncompatibleArtifact(
                f"the artifact was compiled from {artifact.manifest.model.name}, which {model} is not",
                where=str(root),
                hint="give the model that it was compiled from",
            )
        compiled = load_backend(str(artifact.manifest.target["backend"])).unpack(root)
        return _blame(points, compiled, None, options, watch, whole=False)


def _blame(
    points: Points,
    compiled: Module,
    extends: str | None,
    options: BlameOptions,
    watch: Progress,
    *,
    whole: bool,
) -> BlameResult:
    """`whole`: every point of the pipeline may be looked at, not only those before weights are packed."""
    captured = points.at(0)
    data = proof_data(
        points.source,
        points.load,
        captured,
        points.recipe.check,
        points.recipe.base,
        windows=options.windows,
        window=options.window,
    )
    canonical = points.at(points.canonical)
    watch.stage("blame")
    compiled_side = Side(compiled, data.batches)
    canonical_side = Side(canonical, data.batches)
    assert data.units is not None  # a side has refused anything but a decoder
    reference = Reference([out["logits"] for out in run_all(captured, data.batches)])
    hybrid = Hybrid(canonical_side, compiled_side, reference, data.units)
    if not options.probes:
        return BlameResult(hybrid.loss, 0.0, (), None, "not looked for", 0, data.tokens)
    rows, errors, noise = hybrid.originals()
    before, loss = float(rows.mean()), float(hybrid.rows.mean())
    notes = [data.note] if data.note else []
    if before > _CLEAN * loss and not canonical.attrs.get("rotation"):
        notes.append("a part of the loss arises before any weight is packed: `optcc bisect` names the pass")
        hybrid = Hybrid(Side(captured, data.batches), compiled_side, reference, data.units)
        _, errors, noise = hybrid.originals()
    prescaled = any(step.id in _PREPARES for step in points.plan.stages["quantize"])
    putter = Putter(compiled_side, canonical, prescaled)
    found = _search(hybrid, putter, errors, options, watch)
    searched = hybrid.probes
    patch, cause = _mend(points, hybrid, putter, found, noise, canonical, extends, options, whole=whole)
    if prescaled:
        notes.append("factors that were moved between channels are put back by least squares")
    notes.append(f"{searched} measurements to find it, {hybrid.probes - searched} for the patch")
    return BlameResult(
        hybrid.loss, before, tuple(found), patch, cause, hybrid.probes, data.tokens, tuple(notes)
    )


def _search(
    hybrid: Hybrid, putter: Putter, errors: list[float], options: BlameOptions, watch: Progress
) -> list[Carrier]:
    """Parts, then the weights of those that carry most, then what is rounded everywhere."""
    reserve = max(2, options.probes // 3)
    found = find_parts(hybrid, errors, options.probes - reserve, watch.step)
    parts = [c for c in found if c.kind == "part"]
    for part in parts[: 1 if found[0].effect.share >= ENOUGH else 2]:
        known = {c.name for c in found if c.kind == "tensor"}
        found += find_tensors(hybrid, putter, part, options.probes, watch.step, known)
    if not any(c.kind == "tensor" and c.effect.share >= ENOUGH for c in found):
        found += find_everywhere(hybrid, putter, watch.step, options.probes)
    kinds = ("tensor", "part", "parts", "activations", "cache")
    return sorted(found, key=lambda c: (-round(c.effect.share, 2), kinds.index(c.kind)))


def _mend(
    points: Points,
    hybrid: Hybrid,
    putter: Putter,
    found: list[Carrier],
    noise: list[float],
    canonical: Module,
    extends: str | None,
    options: BlameOptions,
    *,
    whole: bool,
) -> tuple[Patch | None, str]:
    """The patch, and the sentence that says what carries the loss."""
    top, recipe = found[0], points.recipe
    single = top.effect.share >= ENOUGH and top.kind in ("tensor", "part")
    if top.effect.recovered.value <= 0:
        return None, "nothing that was put back recovers any of the loss"
    tensors = [c for c in found if c.kind == "tensor"]
    by_weights = any(c.effect.share >= ENOUGH / 2 for c in tensors)
    rounding = max((c for c in found if c.kind in _ROUNDING), key=lambda c: c.effect.share, default=None)
    if not by_weights and rounding is not None and rounding.effect.share >= ENOUGH / 2:
        return None, f"{rounding.name} carries {rounding.effect.share:.0%} of the loss, and no weight as much"
    if single and not by_weights:
        part = next(c for c in found if c.kind in ("part", "tensor"))
        return None, (
            f"{part.name} carries {part.effect.share:.0%} of the loss, and none of its weights does: "
            "what it computes is wrong; `optcc bisect` names the pass"
        )
    if single and whole and tensors:
        culprit = changed_by(points, tensors[0].name)
        if culprit is not None:
            step = str(points.steps[culprit])
            cause = f"{tensors[0].name} was packed well and changed by `{step}` afterwards"
            text = write_patch(
                recipe, extends, (), (culprit,), f"{recipe.name} without {points.steps[culprit].id}"
            )
            return Patch((), (step,), 0, tensors[0].effect, text), cause
    steps = points.plan.stages["quantize"]
    chosen, effect = choose(hybrid, putter, found, noise, steps, canonical, recipe.base, options.target)
    cause = f"{top.name} carries {top.effect.share:.0%} of the loss"
    if top.kind != "tensor" and top.effect.share < _SPREAD:
        cause = f"the loss is spread over the model: no part carries more than {top.effect.share:.0%} of it"
    if not chosen:
        return None, cause
    check_patchable(steps, chosen)
    size = sum(u.bytes for u in chosen)
    text = write_patch(recipe, extends, chosen, (), f"{recipe.name}: {summary(chosen)}")
    return Patch(tuple(chosen), (), size, effect, text), cause
