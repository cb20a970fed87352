"""Run one of modelopt's algorithms on a view of a graph, and read what it found.

Sources: AWQ: Lin et al. 2023; SmoothQuant: Xiao et al. 2022; both as modelopt 0.47 implements them. A factor for the
channels of an input is searched for all linears that read it together, since the view shows them as one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optcc.errors import PassFailed
from optcc.ir.formats import SCALES, find_format
from optcc.quant.grid import Grid, fit_grid, tensor_scale_of
from optcc.quant.modelopt.backend import clip, register
from optcc.quant.modelopt.config import is_native, quantize_config, static_config
from optcc.quant.modelopt.histogram import least_error
from optcc.quant.modelopt.vendor import load, quiet
from optcc.quant.rounding import (
    PackedWeight,
    from_groups,
    group_count,
    pack_levels,
    split_rows,
    to_groups,
)
from optcc.quant.view import GraphView
from optcc.recipe.schemes import ActivationFormat, WeightFormat

Batches = Sequence[Mapping[str, Tensor]]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Method:
    """An algorithm of modelopt's.

    Attributes:
        config: its name and options as modelopt calls them.
        histogram: "percentile" or "mse": how the range of static activations is chosen from a histogram of their
            magnitudes; empty for the largest.
        percentile: share of values inside the range, in percent.
        smooths: it changes weights and gives factors for their inputs.
        by_inputs: it needs the largest magnitudes of inputs even where they are quantized at run time.
        passes: how often it runs the data through the graph; 0 for methods that look at weights alone.
    """

    config: Mapping[str, float | str]
    histogram: str = ""
    percentile: float = 99.99
    smooths: bool = False
    by_inputs: bool = False
    passes: int = 0


@dataclass(frozen=True)
class Found:
    """What was found for one weight.

    Attributes:
        weight: [O, K], divided by the factor for its inputs; not rounded.
        amax: largest magnitudes [blocks of rows, groups, 1].
        largest: of all of them, its siblings' included: two-level scales share the one of the tensor.
        input_amax: largest magnitude of the inputs; None where they aren't static.
        pre_scale: float32 [K] that inputs are multiplied by; None for none.
    """

    weight: Tensor
    amax: Tensor
    largest: float
    input_amax: float | None
    pre_scale: Tensor | None


def calibrate(
    view: GraphView,
    weights: WeightFormat,
    inputs: ActivationFormat | None,
    method: Method,
    batches: Batches,
    wanted_by: str,
    progress: Progress,
) -> None:
    """Run the algorithm: afterwards the view's linears are modelopt's, and compute with rounded values.

    Args:
        view: changed in place.
        weights: what its weights will be stored as.
        inputs: what the largest magnitudes of the linears' inputs are wanted for; None leaves them alone.
        method: the algorithm.
        batches: calibration inputs.
        wanted_by: the pass, for the message when modelopt is missing.
        progress: told how many batches were run.

    Raises:
        MissingPackage: modelopt isn't installed.
    """
    mtq = load(wanted_by)
    register()

    done = 0

    def forward(model: nn.Module) -> None:
        nonlocal done
        for batch in batches:
            model(**batch)
            done += 1
            progress(wanted_by, done, max(method.passes, 1) * len(batches))

    loop = forward if batches else None
    with quiet(), torch.no_grad():
        if inputs is None or not method.histogram:
            activation = static_config(inputs) if inputs else None
            mtq.quantize(view, quantize_config(weights, activation, dict(method.config)), loop)
        else:
            mtq.quantize(view, quantize_config(weights, None, dict(method.config)), None)
            _collect_histograms(view, inputs, method, forward)


def _collect_histograms(
    view: GraphView, form: ActivationFormat, method: Method, forward: Callable[[nn.Module], None]
) -> None:
    """Ranges of inputs from histograms: modelopt has the calibrators, but no algorithm that uses them.

    As its algorithms do, inputs are looked at while nothing is rounded.
    """
    from modelopt.torch.quantization.nn import TensorQuantizer

    quantizers = {n: m for n, m in view.named_modules() if isinstance(m, TensorQuantizer)}
    weights = [m for n, m in quantizers.items() if n.endswith("weight_quantizer")]
    inputs = [m for n, m in quantizers.items() if n.endswith("input_quantizer")]
    for quantizer in inputs:
        quantizer.set_from_attribute_config(static_config(form, histogram=True))
        quantizer.enable()
        quantizer.enable_calib()
    for quantizer in [*weights, *inputs]:
        quantizer.disable_quant()
    forward(view)
    for quantizer in inputs:
        if method.histogram == "percentile":
            quantizer.load_calib_amax("percentile", percentile=method.percentile)
        else:
            seen = quantizer._calibrator
            quantizer.amax = least_error(seen._calib_hist, seen._calib_bin_edges, form.type)
        quantizer.disable_calib()
    for quantizer in [*weights, *inputs]:
        quantizer.enable_quant()


def read(view: GraphView, name: str, form: WeightFormat) -> Found:
    """What was found for a weight.

    Raises:
        PassFailed: modelopt left the weight out, or what it found is not finite.
    """
    linear: Any = view.linear(name)
    rows = view.parts[name].rows
    weight = view.weight(name)
    amax = linear.weight_quantizer.amax
    if amax is None:
        raise PassFailed(f"modelopt left {name} out", hint="leave it out with `skip`")
    # One number where our backend rounds and scales are of blocks of rows: it bounds them all.
    shape = (1, 1, 1) if amax.numel() == 1 else (-1, group_count(weight.shape[1], form), 1)
    amax = amax.detach().float().reshape(shape)
    inputs = linear.input_quantizer
    pre_scale = inputs.pre_quant_scale
    found = Found(
        weight,
        amax[rows] if form.rows == 1 and amax.numel() > 1 else amax,
        float(amax.max()),
        None if not inputs.is_enabled or inputs.amax is None else float(inputs.amax.max()),
        None if pre_scale is None else pre_scale.detach().float().reshape(-1).clone(),
    )
    for what in (found.amax, found.pre_scale):
        if what is not None and not bool(torch.isfinite(what).all()):
            raise PassFailed(f"modelopt's scales of {name} are not finite")
    return found


def pack(found: Found, form: WeightFormat, rows: Tensor | None = None) -> PackedWeight:
    """Pack a weight on the scales that were found for it.

    Args:
        found: of the weight.
        form: what it is stored as.
        rows: float32 [O], factors of the rows: something was folded into them. Only with scales of single rows.
    """
    pieces = split_rows(len(found.weight), form, found.weight.shape[1])
    parts = [_pack_rows(found, form, rows, piece) for piece in pieces]
    if len(parts) == 1:
        return parts[0]
    zeros = [p.zero for p in parts if p.zero is not None]
    return PackedWeight(
        torch.cat([p.packed for p in parts]),
        torch.cat([p.scale for p in parts]),
        torch.cat(zeros) if zeros else None,
        parts[0].tensor_scale,
    )


def _pack_rows(found: Found, form: WeightFormat, rows: Tensor | None, piece: slice) -> PackedWeight:
    """Pack some rows: whole blocks of those that share scales."""
    block = form.rows or len(found.weight)
    weight, amax = found.weight[piece].float(), found.amax
    if len(amax) > 1:
        amax = amax[piece.start // block : -(-piece.stop // block)]
    if rows is not None:
        weight, amax = weight * rows[piece, None], amax * rows[piece].abs()[:, None, None]
    groups = to_groups(weight, form)
    if is_native(form):
        scale = SCALES[form.scale].round(amax / find_format(form.type).highest)
        grid = Grid(form, scale, None, None)
    else:
        groups = clip(groups, amax)
        grid = fit_grid(groups, form, tensor_scale=tensor_scale_of(found.largest, form))
    return pack_levels(from_groups(grid.levels(groups), len(weight), form), grid)
