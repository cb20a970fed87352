"""The way from original to artifact in links, each held tightly however coarse the weights are.

KL to the original has to leave room for quantization, and a small mistake hides in that room. So each step is also
measured by itself, on a few hundred tokens:

* `weights`: what is stored for a weight, against that weight;
* `structure`: the program with the original's weights and nothing rounded, against the original;
* `lowering`: what the backend computes, against the program interpreted over the same stored weights, both without
  rounding activations; `rounding`: the same with it, which is noisy; and `noise`: whether rounding costs the backend as
  much as it costs the program;
* `serving`: a text served in chunks, among others, over used pages, against the same text alone; and sampled tokens
  against the distribution they should come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from optcc.accuracy.data import TextSet
from optcc.accuracy.intervals import Estimate, exact
from optcc.accuracy.metrics import FloatArray
from optcc.backends.registry import load_backend
from optcc.compile.nats import row_kl, rows_alone, worst
from optcc.compile.pair import Pair
from optcc.compile.program import OriginalWeights, interpreted, unrounded
from optcc.compile.served import score_end, score_together
from optcc.compile.serving import Asked, look_at_serving
from optcc.compile.weight_error import WeightError, plain_error, weight_error
from optcc.errors import ExportRefused
from optcc.export.stored import plain_weights, stored_weights
from optcc.ir.module import Module
from optcc.memory import release
from optcc.runtime.executor import Executor

_LENGTHS = (128, 101, 64, 35)
"""Of the texts: several pages, ends inside and at the end of a page."""
_FAR, _END = 1024, 16
"""Tokens of a text that reaches beyond windows, and how many of its last ones are compared."""
_LOGITS_BYTES = 36 << 20
"""Held at a time. A large vocabulary gets shorter texts."""
_TRANSFORMS = ("quantize.rotate", "quantize.smoothquant", "quantize.awq")
"""Passes after which stored weights stand for others than the original's: two links have nothing to compare with."""
_WORST = 3
_LEAST_NOISE = 1e-5
"""Nats per token: what rounding may cost without being compared."""

Rows = Sequence[FloatArray]
"""Logits of each text, f32[S, V]."""
Measured = Mapping[str, Mapping[str, Estimate]]


@dataclass(frozen=True)
class Links:
    """What was found.

    Attributes:
        measured: subject to metric to estimate, as `gates.judge` takes it. Facts about the tokens seen.
        notes: links that could not be measured, and why; weights that are furthest off.
        worst: the weights with the largest errors, worst first.
    """

    measured: Measured
    notes: tuple[str, ...] = field(default=())
    worst: tuple[WeightError, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "measured": {s: {m: e.to_json() for m, e in found.items()} for s, found in self.measured.items()},
            "worst_weights": [{"name": w.name, "whole": w.whole, "block": w.worst} for w in self.worst],
        }


def measure_links(pair: Pair, sets: Sequence[TextSet], asked: Asked) -> Links:
    """Measure all links of a decoder.

    Args:
        pair: original and artifact.
        sets: texts of the check.
        asked: the engine's greedy answers.
    """
    windows = [w for group in zip(*(s.windows for s in sets), strict=False) for w in group]
    texts = _texts(windows, pair.decoder.spec.vocab)
    backend, spec = load_backend(str(pair.manifest.target["backend"])), pair.manifest.spec
    serving = look_at_serving(pair.decoder, texts, asked, alike=backend.rows_alike(pair.root))
    pair.rest()
    module = backend.unpack(pair.root)
    exactly = interpreted(module, spec, rounding=False)
    plain = score_together(exactly, texts)
    far = np.concatenate(windows)[: min(_FAR, spec["max_context"])].tolist()
    ends = score_end(exactly, far, _END)
    del exactly  # and its pool
    release()
    rounded = score_together(interpreted(module, spec), texts)
    program = {
        "rounding": _mean(_kls(rounded, serving.alone)),
        "noise": _noise(plain, rounded, serving.alone),
    }
    measured = serving.measured(program["rounding"].value)
    del rounded, serving
    release()
    if (executor := backend.open_unrounded(pair.root, spec, pair.threads)) is not None:
        program["lowering"] = worst(_kls(plain, (rows_alone(executor, text) for text in texts)))
        measured["far"] = {"lowering": worst(row_kl(ends, score_end(executor, far, _END)))}
        executor.close()
    del plain
    release()
    measured["program"] = program
    found = _original_weights(pair, module)
    if isinstance(found, str):
        return Links(measured, (found,))
    program["structure"] = _structure(unrounded(module, spec, found), texts, pair)
    errors = sorted(_errors(module, found), key=lambda e: -e.worst)
    if errors:
        measured["weights"] = {"weights": exact(errors[0].worst, len(errors))}
    return Links(measured, (), tuple(errors[:_WORST]))


def _texts(windows: Sequence[npt.NDArray[np.int64]], vocab: int) -> list[list[int]]:
    """Beginnings of windows: shorter ones where a row of logits is large."""
    room = _LOGITS_BYTES // (4 * vocab)
    share = min(1.0, room / sum(_LENGTHS))
    lengths = [max(4, int(n * share)) for n in _LENGTHS]
    return [w[:n].tolist() for w, n in zip(windows, lengths, strict=False)]


def _noise(plain: Rows, program: Rows, artifact: Rows) -> Estimate:
    """KL(nothing rounded || artifact) / KL(nothing rounded || program), both in the mean.

    Both round the same values in the same way, so both are as far from what isn't rounded, however noisy each is.
    """
    wanted, found = _kls(plain, program), _kls(plain, artifact)
    return exact(float(found.mean()) / max(float(wanted.mean()), _LEAST_NOISE), len(found))


def _kls(rows: Rows, others: Iterable[FloatArray]) -> npt.NDArray[np.float64]:
    """KL(rows || other) of every token."""
    return np.concatenate([row_kl(mine, other) for mine, other in zip(rows, others, strict=True)])


def _mean(kl: npt.NDArray[np.float64]) -> Estimate:
    return exact(float(kl.mean()), len(kl))


def _structure(program: Executor, texts: Sequence[Sequence[int]], pair: Pair) -> Estimate:
    """The largest KL(original || program with the original's weights)."""
    parts = []
    for text, found in zip(texts, score_together(program, texts), strict=True):
        original = np.concatenate(list(pair.original.logits(np.array(text, np.int64))))
        parts.append(row_kl(original, found))
    return worst(np.concatenate(parts))


def _original_weights(pair: Pair, module: Module) -> OriginalWeights | str:
    """The float weights behind the stored ones, or why there are none to compare with."""
    applied = [name for name in _TRANSFORMS if name in pair.manifest.pipeline]
    if applied:
        return f"weights and structure were not checked by themselves: {applied[0]} changes what weights stand for"
    try:
        weights = OriginalWeights(pair.original.model, stored_weights(module))
    except ExportRefused as error:
        return f"weights and structure were not checked by themselves: {error.what}"
    if missing := weights.missing():
        return f"weights and structure were not checked by themselves: the original has no {missing[0]} of this shape"
    return weights


def _errors(module: Module, weights: OriginalWeights) -> Iterator[WeightError]:
    for stored in stored_weights(module):
        original = weights.find(stored)
        assert original is not None
        yield weight_error(stored, module, original)
    for name, (held, rows) in plain_weights(module).items():
        plain = weights.named(name)
        if plain is not None and plain.ndim == 2 and held in module.weights:
            value = module.weights[held] if rows is None else module.weights[held][rows]
            if value.shape == plain.shape and value.dtype.is_floating_point:
                yield plain_error(name, value, plain)
