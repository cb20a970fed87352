"""Move the difficulty of rounding from activations to weights, through nvidia-modelopt."""

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
class SmoothQuant(WeightPass):
    """`linear(x, w)` becomes `linear(round(x / s), round(w * s))` with `s = max|x|^alpha / max|w|^(1 - alpha)`.

    A few channels of x are many times as large as the others, and what they lose in 8 bits is shared by all. The
    division makes them smaller and their weights larger; one s for all linears that read x. It is folded into the norm,
    the up projection or the values before it, where that is exact, and is a multiplication in the graph elsewhere.
    Activations get one scale per token at run time, or, with a scheme whose activations are static, one for all tokens
    from the largest magnitude in the calibration data. Xiao et al., "SmoothQuant", 2022, as nvidia-modelopt implements
    it (`pip install 'optcc-compiler[modelopt]'`).

    Before: canonical; every linear is `aten.linear` on a weight. After: canonical; no selected weight is left in
    floating point, and the module's `schemes` say what every packed weight is stored as. Tied heads and embeddings are
    rounded to nearest, without s.

    Options:
        scheme: a scheme's name, or a YAML file relative to the recipe; int8 weights and activations.
        part: `all`, `body`, or `vocabulary`, which is the embedding and the head; `all` leaves the vocabulary out
            where the scheme's `embedding` is false.
        only: names of the weights to take, `*` allowed; empty for all.
        skip: names of weights to leave alone, `*` allowed.
        alpha: 0 leaves x as it is, 1 makes all its channels equally large.
    """

    calibrates: ClassVar[bool] = True
    moves: ClassVar[str] = "its channels were rescaled before it was packed"
    scheme: str = "int8-channel-a8"
    alpha: float = 0.5

    def select(self, module: Module, base: Path, taken: Collection[str] = ()) -> list[Selected]:
        """As every weight pass; and refuses options and schemes that SmoothQuant can't work with.

        Raises:
            BadOption: alpha is out of range; the scheme is not int8; static activations of a tied head.
        """
        if not 0.0 <= self.alpha <= 1.0:
            raise BadOption(f"alpha: expected a number from 0 to 1, found {self.alpha:g}")
        scheme = self.load(base)
        activation = scheme.activation
        if scheme.weight.type != "int8" or activation is None or activation.type != "int8":
            raise BadOption(
                f"scheme: SmoothQuant is for int8 weights and int8 activations, not {scheme.name}",
                hint="use int8-channel-a8, or quantize.calibrated",
            )
        if scheme.weight.rows != 1:
            raise BadOption(
                f"scheme: SmoothQuant needs scales of single rows, those of {scheme.name} are shared"
            )
        chosen = super().select(module, base, taken)
        tied = next((s.name for s in chosen if s.embeddings and s.linears), None)
        if activation.static and tied:
            raise BadOption(
                f"scheme: {tied} is a tied head, which SmoothQuant leaves alone, and {scheme.name} needs a range",
                hint="use `part: body`, and quantize.calibrated with `part: vocabulary` for the head",
            )
        return chosen

    def run(self, module: Module, ctx: Context) -> bool:
        """Find the factors, move them, pack."""
        scheme, selected = self.load(ctx.base), self.select(module, ctx.base)
        method = Method(
            {"method": "smoothquant", "alpha": self.alpha}, smooths=True, by_inputs=True, passes=1
        )
        quantize_calibrated(module, selected, scheme, method, ctx, self.id)
        self.note_schemes(module, selected, scheme)
        ctx.note(f"{len(selected)} weights as {scheme.name}")
        return bool(selected)
