"""Faults of graph passes: the program is another one. Each must be well typed, or the checks after a pass find it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from optcc.ir.builder import Builder
from optcc.ir.module import Module
from optcc.ir.pattern import normalized
from tests.faults.fault import Fault
from tests.faults.plant import EditModule, Planting, change_weight, nth, ops, set_operand

LAST = "canonicalize.form"
"""The last pass of the stage: what its edit does, any pass of canonicalize may have done."""
_A = torch.ops.aten
_NORMS = ("optcc.rms_norm.default", "optcc.add_rms_norm.default")


def _edit(edit: EditModule, after: str = LAST) -> Callable[[Planting], None]:
    return lambda p: p.after(after, edit)


def _operand(
    name: str, change: Callable[[Any], Any], *operators: str, layer: int | None = None
) -> EditModule:
    """Another value for an operand: of all such nodes, or of one layer's."""

    def edit(module: Module) -> None:
        nodes = ops(module, *operators)
        for node in nodes if layer is None else [nth(nodes, layer)]:
            values, names, _ = normalized(node)
            set_operand(node, name, change(values[names.index(name)]))
        assert nodes

    return edit


def _skip(node: fx.Node, by: fx.Node) -> None:
    """Everybody who reads a node reads another one."""
    node.replace_all_uses_with(by, delete_user_cb=lambda user: user is not by)


def _residual_adds(module: Module) -> list[fx.Node]:
    """Sums of two values as wide as the model."""
    adds = [n for n in ops(module, "aten.add.Tensor") if isinstance(n.args[1], fx.Node)]
    same = [n for n in adds if n.args[0].meta["val"].shape == n.args[1].meta["val"].shape]  # type: ignore[union-attr]
    width = max(int(n.meta["val"].shape[-1]) for n in same)
    return [n for n in same if int(n.meta["val"].shape[-1]) == width]


def _residual_twice(module: Module) -> None:
    node = nth(_residual_adds(module), 2)
    twice = Builder(module, node.next).call(_A.add.Tensor, node, node.args[0])
    _skip(node, twice)


def _residual_dropped(module: Module) -> None:
    node = nth(_residual_adds(module), 2)
    _skip(node, node.args[1])  # type: ignore[arg-type]


def _branch_dropped(module: Module) -> None:
    node = nth(_residual_adds(module), 1)
    _skip(node, node.args[0])  # type: ignore[arg-type]


def _final_norm(module: Module) -> None:
    node = ops(module, "optcc.rms_norm.default")[-1]
    _skip(node, node.args[0])  # type: ignore[arg-type]


def _norm_weight(change: Callable[[torch.Tensor], torch.Tensor], part: str = "") -> EditModule:
    """Of all norms, or of those whose weight's name has a part."""

    def edit(module: Module) -> None:
        read = [str(node.args[1].target) for node in ops(module, "optcc.rms_norm.default")]  # type: ignore[union-attr]
        names = [name for name in dict.fromkeys(read) if part in name]
        assert names
        for name in names:
            change_weight(module, name, change)

    return edit


def _shared_norm(module: Module) -> None:
    """Two weights taken for equal: one layer normalizes with another layer's weight."""
    first, second = (n for n in ops(module, "optcc.rms_norm.default")[1:3])
    set_operand(second, "weight", first.args[1])


def _swap_stack(p: Planting) -> None:
    """The fused linear holds up first and gate second."""
    from optcc.passes.fuse import gated_mlp

    merge = gated_mlp.merge
    p.patch.setattr(gated_mlp, "merge", lambda build, linears: merge(build, list(reversed(linears))))


def _swap_parts(first: int, second: int) -> EditModule:
    """The parts of the fused linear's result are taken in the wrong order."""

    def edit(module: Module) -> None:
        splits = ops(module, "aten.split_with_sizes.default")
        assert splits
        for split in splits:
            parts = {u.args[1]: u for u in split.users}
            parts[first].args, parts[second].args = (split, second), (split, first)

    return edit


def _gelu(kind: str) -> EditModule:
    return _operand("kind", lambda _: kind, "optcc.gated_activation.default")


def _approximate(module: Module) -> None:
    nodes = ops(module, "aten.gelu.default")
    assert nodes
    for node in nodes:
        before = normalized(node)[0][1]
        node.kwargs = {"approximate": "none" if before == "tanh" else "tanh"}


def _frequencies(change: Callable[[torch.Tensor], torch.Tensor]) -> EditModule:
    def edit(module: Module) -> None:
        names = [n for n in module.weights if n.endswith("inv_freq")]
        assert names
        for name in names:
            change_weight(module, name, change)

    return edit


def _default_frequencies(inverse: torch.Tensor) -> torch.Tensor:
    return 1e4 ** -(torch.arange(len(inverse)) / len(inverse))


def _queries_ahead(module: Module) -> None:
    """Queries are rotated for the position after their own."""
    nodes = ops(module, "optcc.rope.default")
    table = nodes[0].args[1]
    angle = table.args[0].args[0]  # type: ignore[union-attr]
    build = Builder(module, nodes[0])
    step = build.weight(next(n for n in module.weights if n.endswith("inv_freq")))
    later = build.call(_A.add.Tensor, angle, step)
    shape = table.args[1]  # type: ignore[union-attr]
    ahead = [build.reshape(build.call(turn.default, later), shape) for turn in (_A.cos, _A.sin)]  # type: ignore[arg-type]
    for node in nodes[::2]:
        set_operand(node, "cos", ahead[0])
        set_operand(node, "sin", ahead[1])


def _rope_skipped(module: Module) -> None:
    node = nth(ops(module, "optcc.rope.default"), 3)
    _skip(node, node.args[0])  # type: ignore[arg-type]


def _other_tables(module: Module) -> None:
    """Global layers get the tables of local ones, which are in the graph before them."""
    nodes = ops(module, "optcc.rope.default")
    local, others = nodes[0], [n for n in nodes if n.args[1] is not nodes[0].args[1]]
    assert others
    for node in others:
        set_operand(node, "cos", local.args[1])
        set_operand(node, "sin", local.args[2])


def _positions(module: Module) -> None:
    """Learned positions, looked up one too far."""
    name = next(n for n in module.weights if "wpe" in n)
    change_weight(module, name, lambda w: w.roll(-1, 0))


def _windows_exchanged(module: Module) -> None:
    nodes = ops(module, "optcc.attention.default")
    windows = [normalized(n)[0][5] for n in nodes]
    assert len(set(windows)) > 1
    for node, window in zip(nodes, windows[1:] + windows[:1], strict=True):
        set_operand(node, "window", window)


def _no_bias(layer: int | None) -> EditModule:
    def edit(module: Module) -> None:
        nodes = [n for n in ops(module, "aten.linear.default") if len(n.args) > 2 and n.args[2] is not None]
        assert nodes
        for node in nodes if layer is None else [nth(nodes, layer)]:
            set_operand(node, "bias", None)

    return edit


def _heads_reordered(module: Module) -> None:
    """Query heads as if KV heads took turns: head h reads KV head h % G, and not h // (H/G)."""
    node = nth(ops(module, "optcc.attention.default"), 1)
    build = Builder(module, node)
    q, k = node.args[0], node.args[1]
    heads, kv = int(q.meta["val"].shape[1]), int(k.meta["val"].shape[1])  # type: ignore[union-attr]
    width = int(q.meta["val"].shape[2])  # type: ignore[union-attr]
    split = build.reshape(q, [-1, kv, heads // kv, width])  # type: ignore[arg-type]
    turned = build.call(_A.transpose.int, split, 1, 2)
    set_operand(node, "q", build.reshape(turned, [-1, heads, width]))


def _factor_dropped(value: float) -> EditModule:
    """Every multiplication by (or division by the inverse of) this number is left out."""

    def edit(module: Module) -> None:
        found = [
            n
            for n in ops(module, "aten.mul.Tensor", "aten.div.Tensor")
            if isinstance(n.args[1], int | float) and math.isclose(float(n.args[1]), value, rel_tol=1e-6)
        ]
        assert found, [n.args[1] for n in ops(module, "aten.mul.Tensor", "aten.div.Tensor")]
        for node in found:
            _skip(node, node.args[0])  # type: ignore[arg-type]

    return edit


def _no_final_softcap(module: Module) -> None:
    node = ops(module, "aten.tanh.default")[-1]
    _skip(node, node.args[0])  # type: ignore[arg-type]


def _unscaled(operator: str, index: int) -> EditModule:
    """One norm of a layer left out."""

    def edit(module: Module) -> None:
        node = nth(ops(module, operator), index)
        _skip(node, node.args[0])  # type: ignore[arg-type]

    return edit


def _head_norms(module: Module) -> None:
    """The norms of queries, which have three dimensions."""
    nodes = [n for n in ops(module, "optcc.rms_norm.default") if n.args[0].meta["val"].dim() == 3]  # type: ignore[union-attr]
    assert nodes
    for node in nodes[::2]:
        _skip(node, node.args[0])  # type: ignore[arg-type]


def _constants_in_half(module: Module) -> None:
    for name in [n for n in module.weights if len(module.weights.spec(n)[1]) == 1]:
        change_weight(module, name, lambda w: w.to(torch.bfloat16).to(w.dtype))


def _swap_keys_values(module: Module) -> None:
    node = nth(ops(module, "optcc.attention.default"), 1)
    k, v = node.args[1:3]
    set_operand(node, "k", v)
    set_operand(node, "v", k)


def _one_linear_transposed(module: Module) -> None:
    name = next(n for n in module.weights if n.endswith("layers.1.self_attn.o_proj.weight"))
    change_weight(module, name, lambda w: w.T)


def _layer_norm_bias(module: Module) -> None:
    for node in ops(module, "aten.layer_norm.default"):
        set_operand(node, "bias", None)


def _slightly(value: float) -> float:
    return value * 1.05


_ATTENTION = "optcc.attention.default"
FAULTS = (
    Fault("gate and up swapped", "pass", _swap_stack),
    Fault("key and value swapped in the fused linear", "pass", _edit(_swap_parts(1, 2), "fuse.qkv")),
    Fault("key and value swapped, one layer", "pass", _edit(_swap_keys_values)),
    Fault("norm epsilon x 1000", "pass", _edit(_operand("eps", lambda e: e * 1000, *_NORMS))),
    Fault("norm epsilon x 1000, one layer", "pass", _edit(_operand("eps", lambda e: e * 1000, *_NORMS, layer=2))),
    Fault("norm epsilon 1e-6 as 1e-5", "pass", _edit(_operand("eps", lambda e: e * 10, *_NORMS))),
    Fault("norm weight missing", "pass", _edit(_norm_weight(torch.ones_like, "layers.1.input_layernorm.weight"))),
    Fault("norm weight of another layer", "pass", _edit(_shared_norm)),
    Fault("+1 of a norm forgotten", "pass", _edit(_norm_weight(lambda w: w - 1)), "gemma2"),
    Fault("residual added twice", "pass", _edit(_residual_twice)),
    Fault("residual dropped", "pass", _edit(_residual_dropped)),
    Fault("attention's result dropped, one layer", "pass", _edit(_branch_dropped)),
    Fault("final norm dropped", "pass", _edit(_final_norm)),
    Fault("gelu for silu", "pass", _edit(_gelu("gelu"), "fuse.gated-mlp")),
    Fault("gelu by tanh or erf", "pass", _edit(_gelu("gelu"), "fuse.gated-mlp"), "gemma2-lively", ("fp32",)),
    Fault("gelu by tanh or erf, not gated", "pass", _edit(_approximate), "gpt_neox-lively", ("fp32",)),
    Fault("attention scale x 1.4", "pass", _edit(_operand("scale", lambda s: s * 2**0.5, _ATTENTION))),
    Fault("attention scale x 1.05, one layer", "pass", _edit(_operand("scale", _slightly, _ATTENTION, layer=1))),
    Fault("attention softcap dropped", "pass", _edit(_operand("softcap", lambda _: 0.0, _ATTENTION)), "gemma2"),
    Fault("final softcap dropped", "pass", _edit(_no_final_softcap), "gemma2"),
    Fault("query scale of the head width", "pass", _edit(_operand("scale", lambda _: 32**-0.5, _ATTENTION)), "gemma2"),
    Fault("window off by one", "pass", _edit(_operand("window", lambda w: w + 1 if w else w, _ATTENTION)), "mistral"),
    Fault("window ignored, one layer", "pass", _edit(_operand("window", lambda _: 0, _ATTENTION, layer=0)), "qwen2"),
    Fault("window on wrong layers", "pass", _edit(_windows_exchanged), "qwen2"),
    Fault("rope base x 50", "pass", _edit(_frequencies(lambda f: f ** (math.log(5e5) / math.log(1e4))))),
    Fault("rope scaling ignored", "pass", _edit(_frequencies(_default_frequencies))),
    Fault("rope interleaved", "pass", _edit(_operand("interleaved", lambda x: not x, "optcc.rope.default"))),
    Fault("rope of queries one position ahead", "pass", _edit(_queries_ahead)),
    Fault("rope skipped for one layer's keys", "pass", _edit(_rope_skipped)),
    Fault("rope of local layers in global ones", "pass", _edit(_other_tables), "gemma3"),
    Fault("learned positions off by one", "pass", _edit(_positions), "gpt2"),
    Fault("constants folded in bfloat16", "pass", _edit(_constants_in_half)),
    Fault("biases dropped", "pass", _edit(_no_bias(None))),
    Fault("bias dropped, one linear", "pass", _edit(_no_bias(5))),
    Fault("norm biases dropped", "pass", _edit(_layer_norm_bias), "gpt2"),
    Fault("KV heads take turns", "pass", _edit(_heads_reordered)),
    Fault("query norms dropped", "pass", _edit(_head_norms), "qwen3"),
    Fault("logit scale ignored", "pass", _edit(_factor_dropped(2.0)), "granite"),
    Fault("residual scale ignored", "pass", _edit(_factor_dropped(0.6)), "granite"),
    Fault("square weight transposed", "pass", _edit(_one_linear_transposed)),
    Fault("layer scales of attention all alike", "pass", _edit(_operand("scale", lambda _: 0.25, _ATTENTION)), "gpt2"),
)  # fmt: skip
