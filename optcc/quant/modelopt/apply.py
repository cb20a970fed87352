"""From a calibrated view to a quantized graph: factors moved, inputs quantized, weights packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from optcc.ir.formats import find_format
from optcc.ir.module import Json, Module
from optcc.pm.context import Context
from optcc.quant.attach import attach_activations, attach_static, attach_weight
from optcc.quant.modelopt.calibrate import Method, calibrate, pack, read
from optcc.quant.prescale import move_factor, scale_rows
from optcc.quant.rounding import round_to_nearest
from optcc.quant.select import Selected
from optcc.quant.siblings import Siblings, find_siblings
from optcc.quant.view import GraphView
from optcc.recipe.schemes import ActivationFormat, Scheme


@dataclass
class _Factors:
    """What became of the factors: rows that are still to be multiplied by weight, and lines for the report."""

    rows: dict[str, Tensor] = field(default_factory=dict)
    lines: list[dict[str, Json]] = field(default_factory=list)


def quantize_calibrated(
    module: Module, selected: Sequence[Selected], scheme: Scheme, method: Method, ctx: Context, step: str
) -> None:
    """Quantize the selected weights on the scales that modelopt finds.

    Args:
        module: canonical; changed in place.
        selected: of a weight pass. Weights that modelopt's algorithm may not change are rounded to nearest: tables
            that are only looked up, and those of tied heads when the method smooths.
        scheme: its static activations get the range that was found.
        method: the algorithm.
        ctx: gives the data, gets notes.
        step: id of the pass, for messages.

    Raises:
        MissingPackage: modelopt isn't installed.
        NoCalibration: the method needs data, and there is none.
    """
    view = calibrated_view(module, selected, scheme, method, ctx, step)
    take_over(module, view, selected, scheme, ctx)


def calibrated_view(
    module: Module, selected: Sequence[Selected], scheme: Scheme, method: Method, ctx: Context, step: str
) -> GraphView:
    """A view of the module as modelopt leaves it: it computes with modelopt's own rounding. Arguments as above."""
    form, inputs = scheme.weight, _observed(scheme, method)
    shown = [s for s in selected if s.linears and not (method.smooths and s.embeddings)]
    # Scales that rows share would be shared between siblings too: such weights are shown one by one.
    groups = find_siblings(shown) if form.rows == 1 else [Siblings((s.name,), s.linears) for s in shown]
    view = GraphView(module, groups)
    batches = ctx.need_calibration(step).batches if method.passes or inputs else ()
    calibrate(view, form, inputs, method, batches, step, ctx.progress)
    return view


def take_over(
    module: Module, view: GraphView, selected: Sequence[Selected], scheme: Scheme, ctx: Context
) -> None:
    """Put what a calibrated view found into the module it shows.

    Args:
        module: changed in place: factors moved, inputs quantized, weights packed.
        view: its tensors are dropped as they are read.
        selected: as for the view.
        scheme: as for the view.
        ctx: gets a table of the factors.
    """
    form = scheme.weight
    movable = form.rows == 1 and not form.two_level and form.scale != "e8m0"
    factors = _move_factors(module, view, scheme, movable)
    if factors.lines:
        ctx.table("factors of inputs", factors.lines)
    _attach_inputs(module, view, selected, scheme)
    by_name = {s.name: s for s in selected}
    for group in view.groups:
        for name in group.weights:
            packed = pack(read(view, name, form), form, factors.rows.get(name))
            attach_weight(module, by_name.pop(name), packed, form)
        view.release(group.weights[0])
    for item in by_name.values():
        attach_weight(module, item, round_to_nearest(module.weights[item.name], form), form)


def _observed(scheme: Scheme, method: Method) -> ActivationFormat | None:
    """The format of inputs whose largest magnitudes are wanted: static ones, and any that a method smooths by them."""
    activation = scheme.activation
    return activation if activation and (activation.static or method.by_inputs) else None


def _move_factors(module: Module, view: GraphView, scheme: Scheme, movable: bool) -> _Factors:
    """Multiply inputs by the factors that were found, in the cheapest place."""
    done = _Factors()
    for group in view.groups:
        factor = read(view, group.weights[0], scheme.weight).pre_scale
        if factor is None:
            continue
        for value in group.inputs:
            linears = [n for n in group.linears if n.all_input_nodes[0] is value]
            moved = move_factor(module, linears, factor, rows=movable)
            if moved.linear is not None:
                source = str(moved.linear.all_input_nodes[1].target)
                scale_rows(module, moved.linear, factor, weight=source not in view.parts)
                if source in view.parts:
                    done.rows[source] = factor
            done.lines.append(
                {
                    "weights": ", ".join(group.weights),
                    "moved into": moved.to,
                    "least": float(factor.min()),
                    "most": float(factor.max()),
                }
            )
    return done


def _attach_inputs(module: Module, view: GraphView, selected: Sequence[Selected], scheme: Scheme) -> None:
    """Quantize what the linears read."""
    activation = scheme.activation
    if activation is None:
        return
    names = {linear: s.name for s in selected for linear in s.linears}
    linears = [node for node in module.nodes() if node in names]
    if not activation.static:
        attach_activations(module, linears, activation)
        return
    highest = find_format(activation.type).highest
    scales: dict[fx.Node, Tensor] = {}
    for linear in linears:
        largest = read(view, names[linear], scheme.weight).input_amax
        assert largest is not None
        scales[linear] = torch.tensor([largest / highest or 1.0], dtype=torch.float32)
    attach_static(module, scales, activation)
