"""Compare two functions with named outputs: encoders, classifiers, any model without a KV cache."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from optcc.accuracy.intervals import Estimate, Units, exact, make_units, ratio_estimate
from optcc.accuracy.metrics import DoubleArray
from optcc.accuracy.reports import FunctionReport

Array = npt.NDArray[Any]
CallFn = Callable[[Mapping[str, Array]], Mapping[str, Array]]


@dataclass
class _Output:
    """What was seen of one output; each list has one entry per example."""

    cosine_sums: list[float] = field(default_factory=list)
    vectors: list[int] = field(default_factory=list)
    signal: list[float] = field(default_factory=list)
    noise: list[float] = field(default_factory=list)
    agree: list[float] = field(default_factory=list)
    cosine_min: float = math.inf
    max_abs: float = 0.0

    def add(self, original: DoubleArray, artifact: DoubleArray, classes: bool) -> None:
        """Take in one example: f64[vectors, width] of both sides."""
        error = artifact - original
        with np.errstate(all="ignore"):
            cosine = _cosine(original, artifact)
            self.cosine_sums.append(float(cosine.sum()))
            self.vectors.append(len(cosine))
            self.signal.append(float(np.square(original).sum()))
            self.noise.append(float(np.square(error).sum()))
            # np.minimum and np.maximum keep NaN, Python's don't.
            self.cosine_min = float(np.minimum(self.cosine_min, cosine.min(initial=math.inf)))
            self.max_abs = float(np.maximum(self.max_abs, np.abs(error).max(initial=0.0)))
        if classes:
            self.agree.append(float(np.mean(original.argmax(axis=-1) == artifact.argmax(axis=-1))))

    def estimates(self) -> dict[str, Estimate]:
        """The metrics; an example is the sampling unit."""
        n = len(self.vectors)
        units = make_units([[1] * n])
        found = {
            "cosine": ratio_estimate(np.array(self.cosine_sums), np.array(self.vectors, float), units).mapped(
                float, low=-1.0, high=1.0
            ),
            "cosine_min": exact(self.cosine_min, n),
            "max_abs": exact(self.max_abs, n),
            "sqnr": self._sqnr(units),
        }
        if self.agree:
            found["top1"] = ratio_estimate(np.array(self.agree), np.ones(n), units).mapped(
                float, low=0.0, high=1.0
            )
        return found

    def _sqnr(self, units: Units) -> Estimate:
        noise, signal = np.array(self.noise), np.array(self.signal)
        if not noise.any():  # equal outputs, even if all are zero
            return exact(math.inf, len(units))
        return _decibel(ratio_estimate(noise, signal, units))


def compare_function(
    original: CallFn,
    artifact: CallFn,
    inputs: Iterable[Mapping[str, Array]],
    *,
    class_outputs: Collection[str] = ("logits",),
    mask: str = "attention_mask",
) -> FunctionReport:
    """Compare two functions call by call.

    Args:
        original: the model as the user gave it.
        artifact: what was compiled; gives the same output names and shapes.
        inputs: arguments of each call, [B, …] each.
        class_outputs: outputs that hold class scores in the last axis, for which top-1 agreement is measured.
        mask: input of shape [B, S] that says which positions are real; outputs [B, S, …] are compared only
            there, since padding may hold anything.

    Returns:
        Metrics per output. SQNR is 10 log10(sum of squares / sum of squared errors), in dB.
    """
    seen: dict[str, _Output] = {}
    seconds = [0.0, 0.0]
    calls = 0
    for arguments in inputs:
        calls += 1
        begin = time.perf_counter()
        left = original(arguments)
        middle = time.perf_counter()
        right = artifact(arguments)
        seconds[0] += middle - begin
        seconds[1] += time.perf_counter() - middle
        if set(left) != set(right):
            raise ValueError(f"outputs differ: original {sorted(left)}, artifact {sorted(right)}")
        for name, value in left.items():
            if value.shape != right[name].shape:
                raise ValueError(f"output {name}: original {value.shape}, artifact {right[name].shape}")
            output = seen.setdefault(name, _Output())
            for a, b in _examples(value, right[name], arguments.get(mask)):
                output.add(a, b, name in class_outputs)
    if not calls:
        raise ValueError("no inputs to compare on")
    return FunctionReport({n: o.estimates() for n, o in seen.items()}, calls, seconds[0], seconds[1])


def _examples(left: Array, right: Array, mask: Array | None) -> Iterable[tuple[DoubleArray, DoubleArray]]:
    """Each example of a batch as f64[vectors, width], real positions only."""
    if left.ndim < 2:  # a scalar or one vector: a single example
        yield left.astype(np.float64).reshape(1, -1), right.astype(np.float64).reshape(1, -1)
        return
    masked = mask is not None and left.ndim >= 3 and mask.shape == left.shape[:2]
    for index in range(len(left)):
        a, b = left[index], right[index]
        if masked and mask is not None:
            keep = mask[index].astype(bool)
            a, b = a[keep], b[keep]
        if a.size:
            width = a.shape[-1]
            yield a.astype(np.float64).reshape(-1, width), b.astype(np.float64).reshape(-1, width)


def _cosine(a: DoubleArray, b: DoubleArray) -> DoubleArray:
    """f64[n]; 1 where the vectors are equal (zeros included), 0 where only one is zero."""
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    cosine = np.where(norms > 0.0, np.vecdot(a, b) / norms, np.where(np.isnan(norms), np.nan, 0.0))
    result: DoubleArray = np.where((a == b).all(axis=-1), 1.0, cosine)
    return result


def _decibel(noise_share: Estimate) -> Estimate:
    """Noise / signal, an interval of it, as signal-to-noise in dB; falling, so the bounds swap."""

    def decibel(share: float) -> float:
        if math.isnan(share):
            return share
        return -10.0 * math.log10(share) if share > 0.0 else math.inf

    return Estimate(
        decibel(noise_share.value),
        decibel(noise_share.high),
        decibel(noise_share.low),
        noise_share.units,
        noise_share.method,
    )
