"""The recipe as typed facts: what `optcc compile` was asked to do, with every default filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from optcc.recipe.source import Scalar, Where

STAGES = ("canonicalize", "quantize", "fuse", "speculate", "serve")
"""The stages of `passes:`, in the order in which they run."""

DTYPES = ("float32", "float16", "bfloat16")
POOLINGS = ("mean", "cls", "none")
METRICS = (
    "kl",
    "kl_p99",
    "top1",
    "nll",
    "ppl_ratio",
    "greedy",
    "structure",
    "lowering",
    "rounding",
    "noise",
    "serving",
    "weights",
    "cosine",
    "cosine_min",
    "max_abs",
    "sqnr",
)
"""What `check.limits` may bound; `optcc.accuracy.gates` says what each one means."""

OptionValue = Scalar | tuple[Scalar, ...]


@dataclass(frozen=True)
class ModelOptions:
    """How the model is loaded.

    Attributes:
        dtype: type that floating-point weights are cast to.
        max_context: longest context in tokens that the artifact serves; None takes the model's own.
        trust_remote_code: run Python that ships with the model.
        pooling: encoders: how token vectors become one; None and "none" keep them all.
        normalize: encoders: scale the pooled vector to length 1.
    """

    dtype: str = "float32"
    max_context: int | None = None
    trust_remote_code: bool = False
    pooling: str | None = None
    normalize: bool = False


@dataclass(frozen=True)
class TargetOptions:
    """What the artifact runs on. `threads` 0 means one per physical core."""

    backend: str = "onnxruntime"
    device: str = "cpu"
    threads: int = 0


@dataclass(frozen=True)
class PassEntry:
    """One pass of a stage: its id or `file.py:Class`, and its options as written."""

    ref: str
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    where: Where = field(default=Where("", 0, Path()), compare=False)

    def to_json(self) -> str | dict[str, dict[str, Any]]:
        """The entry as it is written in YAML: the id, or a mapping from the id to its options."""
        if not self.options:
            return self.ref
        return {
            self.ref: {k: list(v) if isinstance(v, tuple) else v for k, v in sorted(self.options.items())}
        }


@dataclass(frozen=True)
class CalibrateOptions:
    """What passes that learn from data are given; documents of the check are never among it.

    Attributes:
        data: names of built-in texts, or files relative to the recipe's `base`.
        tokens: how many tokens, over all texts.
        window: tokens per window.
    """

    data: tuple[str, ...] = ("prose", "code", "chat")
    tokens: int = 8192
    window: int = 512


@dataclass(frozen=True)
class SpeedLimit:
    """How fast the artifact must decode.

    Attributes:
        requests: that decode side by side.
        at_least: tokens per second of the artifact divided by the original's.
    """

    requests: int = 1
    at_least: float = 1.0


@dataclass(frozen=True)
class CheckOptions:
    """What the artifact is compared on, and how far it may be from the original.

    Attributes:
        data: names of built-in texts, or files relative to the recipe's `base`.
        tokens: how many tokens are compared, over all texts.
        window: tokens per window.
        classes: outputs of a function that hold class scores, for which `top1` is measured.
        limits: metric to limit; a metric that is absent takes the quantization scheme's default.
        enabled: false skips the comparison, and the artifact says `unchecked`.
        speed: None asks for no speed.
    """

    data: tuple[str, ...] = ("prose", "code", "chat")
    tokens: int = 8192
    window: int = 512
    classes: tuple[str, ...] = ("logits",)
    limits: Mapping[str, float] = field(default_factory=dict)
    enabled: bool = True
    speed: SpeedLimit | None = None

    def speed_json(self) -> dict[str, Any]:
        """The key `speed` as it is written in YAML; nothing where no speed is asked for."""
        limit = self.speed
        return {"speed": {"requests": limit.requests, "at-least": limit.at_least}} if limit else {}


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe. Two recipes are equal when they ask for the same thing, wherever they were read.

    Attributes:
        name: `name:` of the file, or the file's name without suffix.
        description: one line.
        extends: what this recipe was built on, nearest first; already merged in.
        passes: stage to its passes; every stage of `STAGES` is there, in order.
        base: absolute directory that relative paths in the recipe start from.
    """

    name: str
    passes: Mapping[str, tuple[PassEntry, ...]]
    base: Path = field(compare=False)
    version: int = 1
    description: str = ""
    extends: tuple[str, ...] = field(default=(), compare=False)
    model: ModelOptions = ModelOptions()
    target: TargetOptions = TargetOptions()
    calibrate: CalibrateOptions = CalibrateOptions()
    check: CheckOptions = CheckOptions()

    def to_json(self) -> dict[str, Any]:
        """The whole recipe as plain data in the shape of its YAML, with every default filled in.

        Deterministic, and free of `extends` and of where it was read: it goes into the manifest.
        """
        return {
            "version": self.version,
            "name": self.name,
            "description": self.description,
            "model": asdict(self.model),
            "target": asdict(self.target),
            "passes": {stage: [entry.to_json() for entry in self.passes[stage]] for stage in STAGES},
            "calibrate": {**asdict(self.calibrate), "data": list(self.calibrate.data)},
            "check": {
                "data": list(self.check.data),
                "tokens": self.check.tokens,
                "window": self.check.window,
                "classes": list(self.check.classes),
                "limits": dict(sorted(self.check.limits.items())),
                "enabled": self.check.enabled,
                **self.check.speed_json(),
            },
        }
