"""Attach a paged KV cache to every attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from optcc.errors import BadOption, PreconditionFailed
from optcc.ir.builder import Builder
from optcc.ir.module import Module
from optcc.ir.pattern import normalized
from optcc.pm.context import Context
from optcc.pm.contract import Contract, tolerance
from optcc.pm.passes import Pass
from optcc.quant.kv import HALF, KvFormat, PackedValue, packed_kv


@dataclass(frozen=True)
class PagedKv(Pass):
    """`attention(q, k, v, query_starts)` becomes `paged_attention(q, k, v, k_pool_<l>, v_pool_<l>, …)`.

    The graph gets the inputs kv_lengths i32[R], block_table i32[R, M], and for each attention l the pools
    k_pool_<l> and v_pool_<l> of type [N, K, G, C]. Keys and values that `quantize.kv` quantized are cached packed, with
    their scales in k_scale_pool_<l> and v_scale_pool_<l> of type [N, K, G, 1]; those that it rounded to float16 are
    rounded where they are written.

    Before: a decoder with stateless attention and the inputs position_ids and query_starts. After: no
    stateless attention is left, and the module's `kv` says what a backend must allocate.

    Options:
        block-size: tokens per block (K), a power of two from 1 to 256.
    """

    contract: ClassVar[Contract] = tolerance()

    block_size: int = 16

    def run(self, module: Module, ctx: Context) -> bool:
        """Rewrite all attentions of the main graph."""
        if self.block_size not in (1, 2, 4, 8, 16, 32, 64, 128, 256):
            raise BadOption(f"block-size must be a power of two from 1 to 256, not {self.block_size}")
        attentions = module.find(torch.ops.optcc.attention.default)
        inputs = {n.name: n for n in module.inputs()}
        if not attentions:
            raise PreconditionFailed(
                "serve.paged-kv found no attention to attach a cache to",
                hint="leave it out of the recipe for encoders and other plain functions",
            )
        if not {"position_ids", "query_starts"} <= inputs.keys():
            raise PreconditionFailed(
                f"serve.paged-kv needs the inputs position_ids and query_starts, found {list(inputs)}"
            )
        shapes = {tuple(int(n) for n in a.args[1].meta["val"].shape[-2:]) for a in attentions}  # type: ignore[union-attr]
        dtypes = {a.args[1].meta["val"].dtype for a in attentions}  # type: ignore[union-attr]
        if len(shapes) != 1 or len(dtypes) != 1:
            raise PreconditionFailed(f"layers differ in KV heads or head width: {sorted(shapes)}")
        kv_heads, width = shapes.pop()
        dtype = dtypes.pop()
        packed = [self._packed(node) for node in attentions]
        form = self._form(packed)
        lengths = self._input(module, "kv_lengths", torch.int32, ["R"])
        table = self._input(module, "block_table", torch.int32, ["R", "M"])
        for layer, (node, pair) in enumerate(zip(attentions, packed, strict=True)):
            shape = ["N", str(self.block_size), str(kv_heads), str(width)]
            q, k, v, starts, scale, window, softcap, sinks = normalized(node)[0]
            scales: list[fx.Node] = []
            if pair is not None:
                k, v = (value.cached for value in pair)
                scales = [value.scale for value in pair if value.scale is not None]
            pools = [
                self._input(
                    module,
                    f"{kind}_pool_{layer}",
                    torch.float16 if form and form.type == HALF else value.meta["val"].dtype,
                    shape,
                )
                for kind, value in zip("kv", (k, v), strict=True)
            ]
            scale_pools = [
                self._input(module, f"{kind}_scale_pool_{layer}", value.meta["val"].dtype, [*shape[:-1], "1"])
                for kind, value in zip("kv", scales, strict=False)
            ]
            new = Builder(module, node).call(
                torch.ops.optcc.paged_attention.default,
                *(q, k, v, *pools, inputs["position_ids"], starts, lengths, table, scale, window, softcap),
                *scales,
                *scale_pools,
                **({} if sinks is None else {"sinks": sinks}),
            )
            node.replace_all_uses_with(new)
            node.graph.erase_node(node)
        module.tidy()  # nobody reads unpacked keys and values any more
        canonical = module.attrs.get("form") == "canonical"
        module.attrs["form"] = "canonical-serving" if canonical else "serving"
        module.attrs["kv"] = {
            "layers": len(attentions),
            "kv_heads": kv_heads,
            "head_dim": width,
            "block_size": self.block_size,
            "dtype": form.type if form else str(dtype).removeprefix("torch."),
            **({"scale": form.scale} if form and form.scale else {}),
        }
        stored = f", {form}" if form else ""
        ctx.note(f"{len(attentions)} attentions over blocks of {self.block_size} tokens{stored}")
        return True

    def _packed(self, attention: fx.Node) -> tuple[PackedValue, PackedValue] | None:
        """Keys and values as `quantize.kv` packed them, or None when they are plain."""
        k, v = (packed_kv(value) for value in attention.args[1:3])
        if (k is None) != (v is None):
            raise PreconditionFailed(f"%{attention.name}: only one of keys and values is quantized")
        return (k, v) if k is not None and v is not None else None

    def _form(self, packed: Sequence[tuple[PackedValue, PackedValue] | None]) -> KvFormat | None:
        """The one format of all layers."""
        forms = {value.form if value else None for pair in packed for value in pair or (None,)}
        if len(forms) != 1:
            raise PreconditionFailed(
                "keys and values are quantized in some layers and not in others, or differently"
            )
        return forms.pop()

    def _input(self, module: Module, name: str, dtype: torch.dtype, dims: list[str]) -> fx.Node:
        """A new input after the last one."""
        last = module.inputs()[-1]
        with module.graph.inserting_after(last):
            node = module.graph.placeholder(name)
        node.meta["val"] = module.dims.tensor(dtype, [module.dims.parse(d) for d in dims])
        return node
