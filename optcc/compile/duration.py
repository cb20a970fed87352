"""How long a compile will probably take: counted work, divided by rates measured on this machine just now.

An estimate: it knows nothing of what else the machine will do, and a pass may search.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from optcc.compile.plan import Plan
from optcc.compile.sketch import Sketch
from optcc.ir.module import Module
from optcc.pm.passes import Pass
from optcc.quant.rounding import round_to_nearest
from optcc.quant.weight_pass import PackingPass
from optcc.recipe import Recipe
from optcc.recipe.schemes import WeightFormat

_SIDE = 768
_GREEDY = 24 * 2
"""Steps of the check's greedy answers that read all weights: the original's and the artifact's."""
_LINKED = 8 * 328
"""Tokens that the check's links take through one side or the other (`optcc.compile.links`)."""
_LINEAR = torch.ops.aten.linear.default


def predict_seconds(module: Module, drawn: Sketch, recipe: Recipe, plan: Plan) -> dict[str, float]:
    """Seconds by stage, of what comes after preflight.

    Args:
        module: canonical.
        drawn: what will be made of it.
        recipe, plan: what will be done.
    """
    products, rounding, reading = _rates()
    weights = _multiplied(module)
    found: dict[str, float] = {}
    for step in plan.stages["quantize"]:
        if isinstance(step, PackingPass):
            count = sum(s.shape[0] * s.shape[1] for s in step.select(module, recipe.base))
            seconds = count / rounding
            if step.calibrates:
                seconds += _learning(module, step, recipe.base, recipe.calibrate.tokens, count) / products
            found["quantize"] = found.get("quantize", 0.0) + seconds
    found["lower"] = 3 * sum(drawn.stored.values()) / reading
    if recipe.check.enabled:
        # Both sides read every token; the artifact's kernels are about as fast as a product in float32.
        tokens = 2 * recipe.check.tokens + _LINKED
        found["check"] = 2 * weights * tokens / products + _GREEDY * 4 * weights / reading
    return {stage: round(seconds, 2) for stage, seconds in found.items()}


def _multiplied(module: Module) -> int:
    """Elements of all weights that a token is multiplied by."""
    return sum(n.args[1].meta["val"].numel() for n in module.find(_LINEAR))  # type: ignore[union-attr]


def _learning(module: Module, step: Pass, base: Path, tokens: int, count: int) -> float:
    """Operations of a pass that learns: the data once through the model, second moments of every input and their
    factors (GPTQ), and all weights rounded with them."""
    assert isinstance(step, PackingPass)
    inputs: dict[object, int] = {}
    rounded = 0.0
    for item in step.select(module, base):
        rows, width = item.shape
        rounded += 2.0 * rows * width * width
        inputs |= {linear.args[0]: width for linear in item.linears}
    moments = sum(2.0 * tokens * k * k + 2.0 * k**3 for k in inputs.values())
    return 2.0 * _multiplied(module) * tokens + moments + rounded


def _rates() -> tuple[float, float, float]:
    """Operations a second of float32 products, weights rounded to a scheme a second, bytes read a second."""
    left = torch.ones(_SIDE, _SIDE)
    data, weight = torch.ones(1 << 23), torch.linspace(-1, 1, 1 << 19).view(-1, 512)
    form = WeightFormat("int8", 64)
    return (
        2.0 * _SIDE**3 / _seconds(lambda: left @ left),
        weight.numel() / _seconds(lambda: round_to_nearest(weight, form)),
        data.nbytes / _seconds(lambda: data.sum()),
    )


def _seconds(work: Callable[[], object]) -> float:
    """Of the fastest of three runs."""
    found = []
    for _ in range(3):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)
