"""Keep keys and values in fewer bits."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from optcc.errors import PreconditionFailed
from optcc.ir.builder import Builder
from optcc.ir.module import Module
from optcc.pm.context import Context
from optcc.quant.kv import KvPass, kv_attentions, packed_kv, quantize_kv


@dataclass(frozen=True)
class QuantizeKv(KvPass):
    """`attention(q, k, v)` becomes `attention(q, k', v')` with `x' = dequantize(quantize_activation(x))`, or a cast.

    One scale per token and KV head, so a token's keys and values depend on nothing else in the step. `float16` has no
    scales: values are rounded, and beyond 65504 they are lost. Attentions that share a value share its quantization.
    `serve.paged-kv` makes pools of the packed type and of the scales of it.

    Before: a decoder with stateless attention on plain keys and values. After: every attention reads keys and values
    that were packed and unpacked.

    Options:
        type: number format of one value, `float16`, `int8` or `e4m3`.
        scale: type of the scales of `int8` and `e4m3`, `float32` or `float16`.
    """

    def run(self, module: Module, ctx: Context) -> bool:
        """Put a pair of operators behind the keys and values of every attention."""
        form, attentions = self.form(), kv_attentions(module)
        if not attentions:
            raise PreconditionFailed(
                "quantize.kv found no attention whose keys and values could be cached",
                hint="leave it out of the recipe for encoders and other plain functions",
            )
        made: dict[fx.Node, fx.Node] = {}
        for node in attentions:
            for place in (1, 2):
                value = node.args[place]
                assert isinstance(value, fx.Node)
                if packed_kv(value) is not None and value not in made.values():
                    raise PreconditionFailed(
                        f"the keys or values of %{node.name} are quantized already",
                        hint="list quantize.kv once",
                    )
                if value not in made:
                    made[value] = quantize_kv(Builder(module, node), value, form)
                node.update_arg(place, made[value])
        ctx.note(f"keys and values of {len(attentions)} layers as {form}")
        return True
