"""How long a compile will probably take: counted work, divided by rates measured on this machine just now.

An estimate: it knows nothing of what else the machine will do, and a pass may search.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

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
_EAGER = 0.45
"""Of the rate of large products, what a model's own code and the interpreter reach on windows of text."""
_LINKED, _WIDENED = 2000, 4
"""Tokens that the check's links interpret, and how often all weights are dequantized for it (`optcc.compile.links`)."""
_COMPARED = 8e-9
"""Seconds for one logit of both sides."""
_ANSWERED = 0.17
"""Seconds a layer of the original's greedy answers: its code runs for each token of few requests."""
_OPENED = 5.0
"""Seconds to import and build the original's code."""
_LINEAR, _ATTENTION = torch.ops.aten.linear.default, torch.ops.optcc.attention.default


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
    # Each stored weight is compared with the original's for the ledger; the file is written, hashed and read back.
    found["lower"] = weights / rounding + 4 * sum(drawn.stored.values()) / reading
    if recipe.check.enabled:
        found["check"] = _checking(module, recipe, products, rounding)
    return {stage: round(seconds, 2) for stage, seconds in found.items()}


def _checking(module: Module, recipe: Recipe, products: float, rounding: float) -> float:
    """Both sides read every token; the artifact's kernels are about as fast as large products in float32."""
    weights, tokens = _multiplied(module), recipe.check.tokens
    decoder: Any = module.attrs.get("decoder")
    read = 2.0 * weights * tokens * (1 + 1 / _EAGER) / products
    if not isinstance(decoder, dict):
        return _OPENED + read
    layers = sum(1 for _ in module.find(_ATTENTION))
    linked = 2.0 * weights * _LINKED / (_EAGER * products) + (1 + _WIDENED) * weights / rounding
    compared = _COMPARED * tokens * int(decoder["vocab"])
    return _OPENED + read + linked + compared + _ANSWERED * layers


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


@cache
def _rates() -> tuple[float, float, float]:
    """Operations a second of float32 products, weights rounded to a scheme a second, bytes read a second.

    Once in a process: what is extrapolated from two models must not differ by noise.
    """
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
