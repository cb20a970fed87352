"""Activation-aware weight quantization, through nvidia-modelopt."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from optcc.errors import BadOption
from optcc.ir.module import Module
from optcc.pm.context import Context
from optcc.quant.modelopt.apply import quantize_calibrated
from optcc.quant.modelopt.calibrate import Method
from optcc.quant.select import Selected
from optcc.quant.weight_pass import WeightPass


@dataclass(frozen=True)
class Awq(WeightPass):
    """`linear(x, w)` becomes `linear(x / s, round(w * s))` with the s that changes its output least.

    Channels of x that are large get finer weights: `s = |x|^a / |w|^(1 - a)`, means over the calibration data and over
    the weight's groups, with the a between 0 and 1 whose error is least; one s for all linears that read x. The
    division is folded into the norm, the up projection or the values before it, where that is exact, and is a
    multiplication in the graph elsewhere. Lin et al., "AWQ", 2023, as nvidia-modelopt implements it
    (`pip install 'optcc-compiler[modelopt]'`). With a scheme that quantizes activations at run time, they are quantized
    after the division; the search doesn't see that.

    Before: canonical; every linear is `aten.linear` on a weight. After: canonical; no selected weight is left in
    floating point, and the module's `schemes` say what every packed weight is stored as. Tied heads and embeddings are
    rounded to nearest, without s.

    Options:
        scheme: a scheme's name, or a YAML file relative to the recipe.
        part: `all`, `body`, or `vocabulary`, which is the embedding and the head; `all` leaves the vocabulary out
            where the scheme's `embedding` is false.
        only: names of the weights to take, `*` allowed; empty for all.
        skip: names of weights to leave alone, `*` allowed.
        alpha-step: distance of the values of a that are tried.
        clip: search a smaller range for each group as well.
    """

    calibrates: ClassVar[bool] = True
    moves: ClassVar[str] = "its channels were rescaled before it was packed"
    scheme: str = "int4-g64"
    alpha_step: float = 0.1
    clip: bool = False

    def select(self, module: Module, base: Path, taken: Collection[str] = ()) -> list[Selected]:
        """As every weight pass; and refuses options and schemes that AWQ can't work with.

        Raises:
            BadOption: alpha-step is out of range, the scheme has static activations or scales that rows share.
        """
        if not 0.0 < self.alpha_step <= 1.0:
            raise BadOption(f"alpha-step: expected a number above 0, at most 1, found {self.alpha_step:g}")
        scheme = self.load(base)
        if scheme.activation and scheme.activation.static:
            raise BadOption(
                f"scheme: AWQ finds no scales for the static activations of {scheme.name}",
                hint="use quantize.smoothquant or quantize.calibrated",
            )
        if scheme.weight.rows != 1:
            raise BadOption(
                f"scheme: AWQ needs scales of single rows, those of {scheme.name} are shared",
                hint="use a scheme with groups, such as int4-g64, or quantize.calibrated",
            )
        return super().select(module, base, taken)

    def run(self, module: Module, ctx: Context) -> bool:
        """Search the factors, move them, pack."""
        scheme, selected = self.load(ctx.base), self.select(module, ctx.base)
        method = Method(
            {"method": "awq_full" if self.clip else "awq_lite", "alpha_step": self.alpha_step},
            smooths=True,
            passes=3 if self.clip else 2,
        )
        quantize_calibrated(module, selected, scheme, method, ctx, self.id)
        self.note_schemes(module, selected, scheme)
        ctx.note(f"{len(selected)} weights as {scheme.name}")
        return bool(selected)
