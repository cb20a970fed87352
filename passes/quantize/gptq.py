"""Quantize the weights of linears with GPTQ, from the first to the last, each for what it really reads."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

from torch import Tensor, fx

from optcc.errors import BadOption, ContractBroken
from optcc.ir.module import Json, Module
from optcc.pm.context import Context
from optcc.quant.attach import attach_activations, attach_weight
from optcc.quant.finished import Finished, Quantized
from optcc.quant.gptq import Factor, factorize, gptq, hessian, output_error
from optcc.quant.refine import refine
from optcc.quant.rounding import round_to_nearest
from optcc.quant.select import Selected
from optcc.quant.spread import spread
from optcc.quant.sweep import Sweep
from optcc.quant.weight_pass import WeightPass, check_not_negative
from optcc.recipe.schemes import Scheme, WeightFormat

_WORSE, _NOTHING = 1.05, 1e-8
"""How much larger than rounding's the sum of squared errors may be, and what counts as none."""


@dataclass(frozen=True)
class QuantizeGptq(WeightPass):
    """`linear(x, w)` becomes `linear(x', dequantize(packed, scale))`, rounded by GPTQ (Frantar et al., 2022).

    Every linear is calibrated on what it reads once everything before it is quantized, activations included, in one
    pass over the data. An embedding, and a head that is tied to one, is rounded to nearest. A weight of several linears
    is calibrated on the first.

    Before: canonical; every linear is `aten.linear` on a weight. After: canonical; no selected weight is left in
    floating point, and the module's `schemes` say what every packed weight is stored as.

    Options:
        scheme: a scheme's name, or a YAML file relative to the recipe.
        part: `all`, `body`, or `vocabulary`, which is the embedding and the head; `all` leaves the vocabulary out
            where the scheme's `embedding` is false.
        only: names of the weights to take, `*` allowed; empty for all.
        skip: names of weights to leave alone, `*` allowed.
        search: ranges to try for every group besides the full one, for the least error in the linear's result; 0 takes
            the full one.
        signed: whether the search tries negative scales too, so that a group's largest value can be the lowest level of
            an integer format, of which there is one more than above zero. Not every backend's kernels take them.
        damp: added to the diagonal of the Hessian, relative to its mean.
        act-order: round the channels with the largest inputs first; groups stay as they are.
        refine: how often all scales and then all levels are chosen anew for the least error.
        windows: calibration windows to use, from all parts of the data; 0 for all of them.
        memory: megabytes of values held in memory; what is beyond lies in temporary files.
    """

    calibrates: ClassVar[bool] = True
    search: int = 20
    signed: bool = False
    damp: float = 0.01
    act_order: bool = True
    refine: int = 2
    windows: int = 0
    memory: int = 1024

    def select(self, module: Module, base: Path, taken: Collection[str] = ()) -> list[Selected]:
        """As every weight pass; and raises BadOption for numbers below 0 and a scheme with static activations."""
        check_not_negative(self, "search", "refine", "damp", "windows", "memory")
        scheme = self.load(base)
        if scheme.activation and scheme.activation.static:
            raise BadOption(
                f"{self.id} calibrates weights, {scheme.name} wants static scales of activations",
                hint="use a scheme without `static`",
            )
        return super().select(module, base, taken)

    def run(self, module: Module, ctx: Context) -> bool:
        """Pack one weight after another while the calibration data goes through the model once."""
        scheme = self.load(ctx.base)
        selected = self.select(module, ctx.base)
        if not selected:
            return False
        data = ctx.need_calibration(self.id)
        batches = [data.batches[i] for i in spread(len(data.batches), self.windows or len(data.batches))]
        rows: list[dict[str, Json]] = []
        for item, done in self._each(module, selected, scheme, batches, Finished(ctx.keep("weights"))):
            attach_weight(module, item, done.packed, scheme.weight)
            rows.append({"weight": item.name, **done.measured})
            ctx.progress(item.name, len(rows), len(selected))
        ctx.table("weights", rows)
        _require_gain(self.id, rows)
        self.note_schemes(module, selected, scheme)
        part = (
            "" if len(batches) == len(data.batches) else f"{len(batches)} of {len(data.batches)} windows of "
        )
        ctx.note(f"{len(selected)} weights as {scheme.name}, calibrated on {part}{data.tokens} tokens")
        return True

    def _each(
        self,
        module: Module,
        selected: list[Selected],
        scheme: Scheme,
        batches: Sequence[Mapping[str, Tensor]],
        finished: Finished,
    ) -> Iterator[tuple[Selected, Quantized]]:
        """The weights in the order in which they are needed; each is attached before the next one is asked for."""
        form = scheme.weight
        for item in selected:
            if item.embeddings:
                yield item, finished.get(item.name, partial(self._nearest, module.weights[item.name], form))
        order = {node: i for i, node in enumerate(module.nodes())}
        first = {min(s.linears, key=order.__getitem__): s for s in selected if not s.embeddings}
        if scheme.activation:
            linears = [linear for s in selected for linear in s.linears]
            attach_activations(module, sorted(linears, key=order.__getitem__), scheme.activation)
        sweep = Sweep(module, batches, first, budget=self.memory << 20)
        for x, readers in _by_input(sorted(first, key=order.__getitem__)).items():
            sweep.run_to(readers[0])
            shared = _Shared(self, sweep, x, form.group)
            for linear in readers:
                item = first[linear]
                yield (
                    item,
                    finished.get(item.name, partial(self._solve, module.weights[item.name], shared, form)),
                )

    def _nearest(self, weight: Tensor, form: WeightFormat) -> Quantized:
        """A table of which rows are looked up: every row counts the same, and so does every channel."""
        packed = round_to_nearest(weight, form, search=self.search, signed=self.signed)
        return Quantized(packed, {"method": "nearest"})

    def _solve(self, weight: Tensor, shared: _Shared, form: WeightFormat) -> Quantized:
        """A weight of linears."""
        first = gptq(weight, shared.factor, form, search=self.search, signed=self.signed)
        packed = refine(weight, first, form, shared.factor.hessian, self.refine)
        nearest = round_to_nearest(weight, form)
        return Quantized(
            packed,
            {
                "method": "gptq",
                "error": output_error(weight, packed, form, shared.hessian),
                "unrefined_error": output_error(weight, first, form, shared.hessian),
                "nearest_error": output_error(weight, nearest, form, shared.hessian),
                "damp": shared.factor.damp,
            },
        )


def _require_gain(name: str, rows: Sequence[Mapping[str, Json]]) -> None:
    """Raise ContractBroken if GPTQ made all weights together worse than rounding, on the data that it saw.

    Refinement would hide it: that starts from anything.
    """
    solved, nearest = (
        math.fsum(float(str(row[key])) ** 2 for row in rows if key in row)
        for key in ("unrefined_error", "nearest_error")
    )
    if solved > nearest * _WORSE + len(rows) * _NOTHING:
        raise ContractBroken(
            f"{name} moves what linears compute by {math.sqrt(solved / len(rows)):.3g} of its size in the mean, "
            f"rounding to nearest by {math.sqrt(nearest / len(rows)):.3g}",
            hint="GPTQ is there to do better on the data it sees; this is a fault of ours, please report it",
        )


@dataclass(frozen=True)
class _Shared:
    """What the weights that read one value have in common; computed when the first of them asks."""

    step: QuantizeGptq
    sweep: Sweep
    value: fx.Node
    group: int

    @cached_property
    def hessian(self) -> Tensor:
        """Of the value in all batches."""
        return hessian(self.sweep.inputs(self.value), int(self.value.meta["val"].shape[-1]))

    @cached_property
    def factor(self) -> Factor:
        """Of the hessian."""
        return factorize(self.hessian, self.group, damp=self.step.damp, act_order=self.step.act_order)


def _by_input(linears: Sequence[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """Linears that read the same value, in order."""
    found: dict[fx.Node, list[fx.Node]] = {}
    for linear in linears:
        x = linear.args[0]
        assert isinstance(x, fx.Node)
        found.setdefault(x, []).append(linear)
    return found
