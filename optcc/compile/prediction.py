"""What a compile will take and make, from types alone: bytes, memory, disk, time, and the context that fits."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from optcc.artifact.manifest import FileEntry, Manifest
from optcc.backends.protocol import Backend
from optcc.compile.duration import predict_seconds
from optcc.compile.ledger import intents
from optcc.compile.manifests import make_manifest
from optcc.compile.peak import predict_peaks, serving_bytes
from optcc.compile.plan import Plan
from optcc.compile.sketch import Sketch, sketch
from optcc.frontend import ModelSource, export_tokenizer
from optcc.frontend.origin import ORIGIN, origin_files
from optcc.ir.module import Module
from optcc.memory import Peak
from optcc.recipe import Recipe
from optcc.runtime.executor import ModelSpec

_DIGEST = "0" * 64


@dataclass(frozen=True)
class Context:
    """What a decoder's cache takes, and how long a text may be.

    Attributes:
        token_bytes: of one token's keys and values over all layers.
        limit: most tokens that the model was made for.
        memory_bytes: what there is for serving, by default this machine's memory.
        serving_bytes: an artifact that is open, without any cache.
        fits: tokens that the rest holds, in one request or several.
        block: tokens of a block of the cache.
    """

    token_bytes: int
    limit: int
    memory_bytes: int
    serving_bytes: int
    fits: int
    block: int

    @property
    def longest(self) -> int:
        """Tokens of the longest request that can be served."""
        return min(self.limit, self.fits)


@dataclass(frozen=True)
class Prediction:
    """Before a weight is computed with.

    Attributes:
        model: the model's name.
        captured_bytes: all weights in the type the recipe loads them as.
        quantized: how many weights a scheme takes.
        artifact_bytes: the artifact's directory without the report.
        peak: highest memory of the compile.
        stages: the same of its stages.
        disk_bytes: what is written while compiling: the artifact, and finished passes in the cache.
        seconds: estimated duration by stage, from rates measured on this machine.
        context: None of a function.
        how: what each stage's memory is made of, for people.
        left_out: passes that read weights, whose changes aren't in it.
    """

    model: str
    captured_bytes: int
    quantized: int
    artifact_bytes: int
    peak: Peak
    stages: Mapping[str, Peak]
    disk_bytes: int
    seconds: Mapping[str, float]
    context: Context | None
    how: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        context = {**asdict(self.context), "longest": self.context.longest} if self.context else None
        return {
            **asdict(self),
            "peak_bytes": self.peak.resident,
            "anonymous_bytes": self.peak.anonymous,
            "estimated_seconds": round(sum(self.seconds.values()), 1),
            "context": context,
        }


def predict(
    module: Module,
    captured_bytes: int,
    source: ModelSource,
    recipe: Recipe,
    plan: Plan,
    backend: Backend,
    memory_bytes: int,
) -> Prediction:
    """Predict from the module as preflight sees it.

    Args:
        module: after the first `plan.preflight_at` passes; not changed.
        captured_bytes: of all weights before any pass.
        source: the model.
        recipe: resolved.
        plan: all passes.
        backend: what will store the result.
        memory_bytes: what there is for serving.

    Raises:
        OptccError: what a later pass or the backend will refuse.
    """
    steps = plan.pipeline.passes
    promised = intents(plan.stages["quantize"], module, recipe.base)
    drawn = sketch(module, steps[plan.preflight_at :], backend, recipe.base)
    beside = _beside(source)
    spec = make_manifest(drawn.module, recipe, plan, source, {})
    files = {
        **{name: FileEntry(size, _DIGEST) for name, size in beside.items()},
        "weights.safetensors": FileEntry(drawn.weights_bytes, _DIGEST),
        "model.ir": FileEntry(drawn.graph_bytes, _DIGEST),
    }
    artifact = drawn.weights_bytes + drawn.graph_bytes + sum(beside.values()) + _size(spec, files)
    stages, how = predict_peaks(module, drawn, source, recipe, plan)
    peak = Peak()
    for one in stages.values():
        peak = peak.joined(one)
    return Prediction(
        model=source.name,
        captured_bytes=captured_bytes,
        quantized=len(promised),
        artifact_bytes=artifact,
        peak=peak,
        stages=stages,
        disk_bytes=artifact + drawn.written,
        seconds=predict_seconds(module, drawn, recipe, plan),
        context=_context(spec.spec, drawn, memory_bytes) if spec.kind == "decoder" else None,
        how=how,
        left_out=drawn.left_out,
    )


def _size(manifest: Manifest, files: Mapping[str, FileEntry]) -> int:
    return len(replace(manifest, files=files).to_bytes())


def _context(spec: Mapping[str, Any], drawn: Sketch, memory_bytes: int) -> Context:
    found = ModelSpec.from_json(spec)
    token = found.block_bytes // found.block_size
    serving = serving_bytes(drawn, found)
    fits = max(0, memory_bytes - serving) // token
    return Context(
        token,
        found.max_context,
        memory_bytes,
        serving,
        fits // found.block_size * found.block_size,
        found.block_size,
    )


def _beside(source: ModelSource) -> dict[str, int]:
    """Bytes of the files that are neither weights nor graph, by name."""
    if source.directory is None:
        return {}
    with tempfile.TemporaryDirectory(prefix="optcc-tokenizer-") as folder:
        written = export_tokenizer(source, Path(folder) / "tokenizer")
        found = {f"tokenizer/{path.name}": path.stat().st_size for path in written}
    return found | {f"{ORIGIN}/{n}": p.stat().st_size for n, p in origin_files(source.directory).items()}
