"""Quantize the weights of linears, and the embedding where asked, by rounding to nearest."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from optcc.ir.module import Module
from optcc.pm.context import Context
from optcc.quant.attach import attach_activations, attach_weight
from optcc.quant.rounding import round_to_nearest
from optcc.quant.select import Selected
from optcc.quant.weight_pass import WeightPass, check_not_negative


@dataclass(frozen=True)
class QuantizeLinear(WeightPass):
    """`linear(x, w)` becomes `linear(x', dequantize(packed, scale))`, rounded to nearest.

    With a scheme that quantizes activations, x' is `dequantize(quantize_activation(x))`; otherwise it is x. An
    embedding tied to the head is packed once and read by both.

    Before: canonical; every linear is `aten.linear` on a weight. After: canonical; no selected weight is left in
    floating point, and the module's `schemes` say what every packed weight is stored as.

    Options:
        scheme: a scheme's name, or a YAML file relative to the recipe.
        part: `all`, `body`, or `vocabulary`, which is the embedding and the head; `all` leaves the vocabulary out
            where the scheme's `embedding` is false.
        only: names of the weights to take, `*` allowed; empty for all.
        skip: names of weights to leave alone, `*` allowed.
        search: ranges to try for every group besides the full one, for the least squared error; 0 takes the full one.
    """

    farthest: ClassVar[float] = 1.5
    search: int = 0

    def select(self, module: Module, base: Path, taken: Collection[str] = ()) -> list[Selected]:
        """As every weight pass; and raises BadOption for a search below 0."""
        check_not_negative(self, "search")
        return super().select(module, base, taken)

    def run(self, module: Module, ctx: Context) -> bool:
        """Pack one weight after another; only one is in memory at a time."""
        scheme = self.load(ctx.base)
        selected = self.select(module, ctx.base)
        linears = [linear for s in selected for linear in s.linears]
        if scheme.activation:
            order = {node: i for i, node in enumerate(module.nodes())}
            attach_activations(module, sorted(linears, key=order.__getitem__), scheme.activation)
        for item in selected:
            packed = round_to_nearest(module.weights.narrow(item.name), scheme.weight, search=self.search)
            attach_weight(module, item, packed, scheme.weight)
        self.note_schemes(module, selected, scheme)
        ctx.note(f"{len(selected)} weights as {scheme.name}, {len(linears)} linears")
        return bool(selected)
