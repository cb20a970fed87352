"""Static activation scales, and weight scales by least error, through nvidia-modelopt."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from optcc.errors import BadOption, nearest
from optcc.ir.module import Module
from optcc.pm.context import Context
from optcc.quant.modelopt.apply import quantize_calibrated
from optcc.quant.modelopt.calibrate import Method
from optcc.quant.modelopt.config import is_native
from optcc.quant.select import Selected
from optcc.quant.weight_pass import WeightPass

_INPUTS = ("max", "percentile", "mse")
_WEIGHTS = ("max", "mse")


@dataclass(frozen=True)
class Calibrated(WeightPass):
    """`linear(x, w)` becomes `linear(dequantize(quantize_static(x)), dequantize(packed, scale))`, scales from data.

    For schemes with static activations: one scale for all values of x in all tokens, from what x was on the calibration
    data. With other schemes only the weights' ranges are chosen, and activations are quantized at run time or not at
    all. Ranges are found by nvidia-modelopt (`pip install 'optcc-compiler[modelopt]'`).

    Before: canonical; every linear is `aten.linear` on a weight. After: canonical; no selected weight is left in
    floating point, and the module's `schemes` say what every packed weight is stored as.

    Options:
        scheme: a scheme's name, or a YAML file relative to the recipe.
        part: `all`, `body`, or `vocabulary`, which is the embedding and the head; `all` leaves the vocabulary out
            where the scheme's `embedding` is false.
        only: names of the weights to take, `*` allowed; empty for all.
        skip: names of weights to leave alone, `*` allowed.
        inputs: range of static activations: `max` covers all values; `percentile` the given share of them; `mse` has
            the least squared error. The last two look at a histogram of magnitudes.
        percentile: in percent, for `inputs: percentile`.
        weights: `max`, or `mse` for the range with the least squared error of each scale's weights.
    """

    calibrates: ClassVar[bool] = True
    scheme: str = "fp8-tensor-static"
    inputs: str = "max"
    percentile: float = 99.99
    weights: str = "max"

    def select(self, module: Module, base: Path, taken: Collection[str] = ()) -> list[Selected]:
        """As every weight pass; and refuses options that don't go with the scheme.

        Raises:
            BadOption: no such range; a range for activations that aren't static.
        """
        for option, value, known in (("inputs", self.inputs, _INPUTS), ("weights", self.weights, _WEIGHTS)):
            if value not in known:
                raise BadOption(f"{option}: there is no range {value!r}", hint=nearest(value, list(known)))
        if not 50.0 <= self.percentile <= 100.0:
            raise BadOption(f"percentile: expected a number from 50 to 100, found {self.percentile:g}")
        scheme = self.load(base)
        static = scheme.activation is not None and scheme.activation.static
        if self.inputs != "max" and not static:
            raise BadOption(
                f"inputs: {scheme.name} has no static activations, so no range is chosen for them"
            )
        if self.weights == "mse" and not is_native(scheme.weight):
            raise BadOption(
                f"weights: modelopt can't vary the scales of {scheme.name} on its own",
                hint="quantize.linear with `search` finds ranges of least error for every scheme",
            )
        return super().select(module, base, taken)

    def run(self, module: Module, ctx: Context) -> bool:
        """Find the ranges, pack."""
        scheme, selected = self.load(ctx.base), self.select(module, ctx.base)
        histogram = self.inputs if self.inputs != "max" else ""
        method = Method({"method": self.weights}, histogram, self.percentile)
        quantize_calibrated(module, selected, scheme, method, ctx, self.id)
        self.note_schemes(module, selected, scheme)
        ctx.note(f"{len(selected)} weights as {scheme.name}")
        return bool(selected)
