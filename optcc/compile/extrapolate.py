"""A deep model of which no weight is there, predicted from two shallow ones: all layers are alike in what they store.

Capturing takes a third of a second a layer; sizes are a line through the number of layers, so two points give it, and
the shallower of the two is cut out of the other (`optcc.compile.shorten`). What is left out is that names grow by a
digit, which is some bytes in a graph's text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from optcc.compile.prediction import Context, Prediction
from optcc.memory import Peak

WHOLE = 4
"""Layers up to which a model is captured as it is: that costs no more, and is exact."""


def shallow(kinds: int) -> tuple[int, int]:
    """Layers of the two: 1 and 2 of each kind, so that kinds that take turns have the same share of both."""
    return kinds, 2 * kinds


def extrapolate(few: Prediction, more: Prediction, counts: tuple[int, int], layers: int) -> Prediction:
    """What a model of `layers` layers would give, from predictions of models with `counts` layers."""
    steps = (layers - counts[0]) / (counts[1] - counts[0])

    def line(a: float, b: float) -> int:
        return round(a + (b - a) * steps)

    def peak(a: Peak, b: Peak) -> Peak:
        # The process is a little larger after a second capture: it isn't the layers that make it so.
        anonymous = max(a.anonymous, b.anonymous)
        return Peak(anonymous + line(a.resident - a.anonymous, b.resident - b.anonymous), anonymous)

    stages = {stage: peak(few.stages[stage], more.stages[stage]) for stage in few.stages}
    whole = Peak()
    for one in stages.values():
        whole = whole.joined(one)
    return replace(
        more,
        captured_bytes=line(few.captured_bytes, more.captured_bytes),
        quantized=line(few.quantized, more.quantized),
        artifact_bytes=line(few.artifact_bytes, more.artifact_bytes),
        peak=whole,
        stages=stages,
        disk_bytes=line(few.disk_bytes, more.disk_bytes),
        seconds={
            stage: round(max(0.0, few.seconds[stage] + (more.seconds[stage] - few.seconds[stage]) * steps), 2)
            for stage in few.seconds
        },
        context=_context(few.context, more.context, line),
    )


def _context(
    few: Context | None, more: Context | None, line: Callable[[float, float], int]
) -> Context | None:
    if few is None or more is None:
        return None
    token = line(few.token_bytes, more.token_bytes)
    serving = line(few.serving_bytes, more.serving_bytes)
    fits = max(0, more.memory_bytes - serving) // token // more.block * more.block
    return replace(more, token_bytes=token, serving_bytes=serving, fits=fits)
