"""Quantize convolutions and linears to integers, activations by ranges that data showed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, fx

from optcc.errors import BadOption, nearest
from optcc.ir.builder import Builder
from optcc.ir.module import Module
from optcc.ir.pattern import normalized
from optcc.pm.context import Context
from optcc.quant.attach import attach_weight
from optcc.quant.ranges import METHODS, ActivationGrid, choose_grid, see_ranges
from optcc.quant.rounding import PackedWeight, round_to_nearest
from optcc.quant.select import Selected, select_weights
from optcc.quant.static import CONVOLUTIONS, attach_grids, find_points
from optcc.quant.weight_pass import WeightPass, check_not_negative, check_part
from optcc.recipe.schemes import Scheme

_BIAS_LEVELS = 2.0**24


@dataclass(frozen=True)
class QuantizeStatic(WeightPass):
    """`conv(x, w)` becomes `conv(x', w')` with `v' = dequantize(quantize_static(v))`; so do linears.

    Weights have one scale per output channel. Activations have one step and zero point per tensor, chosen from their
    values on the calibration data, which runs through the module once, or twice for histograms. Rounded are the inputs
    of convolutions and linears, results of convolutions, and sums of two such values (residual connections), behind a
    relu or clamp where one follows; the clamp goes where rounding does the same. Results of linears stay in float.

    Before: canonical, batch norms folded. After: canonical; no selected weight is left in floating point, and every
    input of a selected product is rounded to an int8 grid.

    Options:
        scheme: a scheme whose activations are static int8; its name, or a YAML file relative to the recipe.
        part: `all`, `body`, or `vocabulary`, which is the head of a decoder.
        only: names of the weights to take, `*` allowed; empty for all.
        skip: names of weights to leave alone, `*` allowed.
        method: how a range is chosen: `max`, `percentile` or `mse`.
        percentile: share of the values, in percent, that a range by percentile holds.
        symmetric: activations without zero points.
        min-channels: convolutions that read fewer channels, such as the first over an image, stay in float: their
            weights are small and integer kernels are slower there. Those over groups are not held to it.
        search: ranges to try for every output channel of a weight besides the full one; 0 takes the full one.
    """

    calibrates: ClassVar[bool] = True

    scheme: str = "int8-channel-static"
    method: str = "mse"
    percentile: float = 99.99
    symmetric: bool = False
    min_channels: int = 8
    search: int = 0

    def load(self, base: Path) -> Scheme:
        """The scheme. Raises BadOption unless its activations are static int8."""
        scheme = super().load(base)
        form = scheme.activation
        if form is None or not form.static or form.type != "int8":
            raise BadOption(
                f"scheme: the activations of {scheme.name} are not static int8",
                hint="`int8-channel-static` has them; `quantize.linear` takes all other schemes",
            )
        if self.method not in METHODS:
            raise BadOption(f"method: there is no {self.method!r}", hint=nearest(self.method, list(METHODS)))
        if not 50.0 < self.percentile <= 100.0:
            raise BadOption(f"percentile: {self.percentile:g} is not between 50 and 100")
        return scheme

    def select(self, module: Module, base: Path, taken: Collection[str] = ()) -> list[Selected]:
        """The weights of convolutions and linears."""
        check_part(self.part)
        check_not_negative(self, "search", "min-channels")
        found = select_weights(
            module,
            self.load(base),
            self.skip,
            only=self.only,
            part=self.part,
            taken=frozenset(taken),
            convolutions=True,
        )
        return [s for s in found if not any(self._is_narrow(product) for product in s.linears)]

    def _is_narrow(self, product: fx.Node) -> bool:
        """Whether a convolution reads too few channels for integers to pay; depthwise ones have their own kernels."""
        if product.target not in CONVOLUTIONS or normalized(product)[0][6] != 1:
            return False
        weight = product.args[1]
        assert isinstance(weight, fx.Node)
        return int(weight.meta["val"].shape[1]) < self.min_channels

    def run(self, module: Module, ctx: Context) -> bool:
        """See what values there are, round them, then pack one weight after another."""
        scheme = self.load(ctx.base)
        selected = self.select(module, ctx.base)
        if not selected:
            return False
        data = ctx.need_calibration(self.id)
        products = [product for s in selected for product in s.linears]
        points = find_points(module, products)
        roots = dict.fromkeys(points.roots.values())
        seen = see_ranges(module, data.batches, roots, self.method != "max", ctx.progress)
        grids = {n: choose_grid(s, self.method, self.percentile, self.symmetric) for n, s in seen.items()}
        inputs = {p: grids[points.roots[x]] for p in products if isinstance(x := p.args[0], fx.Node)}
        clamps = attach_grids(module, points, grids)
        for item in selected:
            self._pack(module, item, scheme, inputs)
        module.tidy()
        if data.note:
            ctx.note(data.note)
        self.note_schemes(module, selected, scheme)
        ctx.note(
            f"{len(selected)} weights as {scheme.name}; {len(grids)} ranges by {self.method} over "
            f"{len(data.batches)} batches; {clamps} clamps folded"
        )
        return True

    def _pack(
        self, module: Module, item: Selected, scheme: Scheme, inputs: dict[fx.Node, ActivationGrid]
    ) -> None:
        weight = module.weights[item.name]
        rows = weight.reshape(item.shape)
        packed = round_to_nearest(rows, scheme.weight, search=self.search)
        convolutions = [p for p in item.linears if p.target in CONVOLUTIONS]
        for product in convolutions:
            bias = product.args[2] if len(product.args) > 2 else None
            if isinstance(bias, fx.Node) and bias.op == "get_attr":
                packed = fit_bias(rows, packed, module.weights[str(bias.target)], inputs[product].step)
        attach_weight(module, item, packed, scheme.weight)
        if convolutions:
            read = convolutions[0].args[1]
            assert isinstance(read, fx.Node)
            wide = Builder(module, read.next, read).reshape(read, list(weight.shape))
            read.replace_all_uses_with(wide, delete_user_cb=lambda user: user is not wide)


def fit_bias(rows: Tensor, packed: PackedWeight, bias: Tensor, step: float) -> PackedWeight:
    """Widen the scales of channels whose bias would not fit the int32 sum of products: `|b| <= 2^24 * step * scale`.

    Integer kernels add the bias in units of `step * scale`. A channel of tiny weights, or none, beside a large bias
    would overflow; a wider scale costs it nothing, since its bias is all there is to it.

    Args:
        rows: float [O, K], the weight.
        packed: int8, one scale per row.
        bias: float [O].
        step: of the convolution's input.
    """
    least = (bias.to(torch.float32).abs() / (step * _BIAS_LEVELS)).reshape(-1, 1)
    least = torch.where(packed.scale > 0, least, least.clamp(min=torch.finfo(torch.float32).tiny))
    if bool((packed.scale >= least).all()):
        return packed
    scale = torch.maximum(packed.scale, least)
    levels = (rows.to(torch.float32) / scale).round().clamp(-128, 127).to(torch.int8)
    return PackedWeight(torch.where(scale > packed.scale, levels, packed.packed), scale)
