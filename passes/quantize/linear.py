"""Quantize the weights of linears, and the embedding where the scheme says so, by rounding to nearest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from optcc.ir.module import Module
from optcc.pm.context import Context
from optcc.pm.passes import Pass
from optcc.quant.attach import attach_activations, attach_weight
from optcc.quant.rounding import round_to_nearest
from optcc.quant.select import select_weights
from optcc.recipe.schemes import load_scheme


@dataclass(frozen=True)
class QuantizeLinear(Pass):
    """`linear(x, w)` becomes `linear(x', dequantize(packed, scale))`, rounded to nearest.

    With a scheme that quantizes activations, x' is `dequantize(quantize_activation(x))`; otherwise it is x. An
    embedding tied to the head is packed once and read by both.

    Before: canonical; every linear is `aten.linear` on a weight. After: canonical; no selected weight is left in
    floating point, and the module's `schemes` say what every packed weight is stored as.

    Options:
        scheme: a scheme's name, or a YAML file relative to the recipe.
        skip: names of weights to leave alone, `*` allowed.
    """

    scheme: str = "int8-g64-a8"
    skip: tuple[str, ...] = ()

    def reads(self, base: Path) -> tuple[Path, ...]:
        """A scheme of the user's own."""
        path = base / self.scheme
        return (path,) if path.is_file() else ()

    def run(self, module: Module, ctx: Context) -> bool:
        """Pack one weight after another; only one is in memory at a time."""
        scheme = load_scheme(self.scheme, ctx.base)
        selected = select_weights(module, scheme, self.skip)
        linears = [linear for s in selected for linear in s.linears]
        if scheme.activation:
            order = {node: i for i, node in enumerate(module.nodes())}
            attach_activations(module, sorted(linears, key=order.__getitem__), scheme.activation)
        for item in selected:
            packed = round_to_nearest(module.weights[item.name], scheme.weight)
            attach_weight(module, item, packed, scheme.weight)
        if selected:
            record = module.attrs.setdefault("schemes", {})
            assert isinstance(record, dict)
            record.update({s.name: scheme.name for s in selected})
        ctx.note(f"{len(selected)} weights as {scheme.name}, {len(linears)} linears")
        return bool(selected)
