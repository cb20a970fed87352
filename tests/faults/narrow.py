"""Faults that strike one head, row, token, page or size of step, and nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optcc.backends.onnxruntime.executor import OnnxExecutor
from optcc.ir.builder import Builder
from optcc.ir.module import Module
from optcc.quant.rounding import PackedWeight
from optcc.runtime.executor import Batch
from tests.faults.fault import QUANTIZED, Fault
from tests.faults.graphs import LAST
from tests.faults.plant import EditModule, Planting, change_weight, nth, ops, set_operand
from tests.faults.texts import ONCE, _file, _special, _tokens

_A = torch.ops.aten
_ATTENTION = "optcc.attention.default"
PLAIN = ("fp32",)


def _edit(edit: EditModule) -> Callable[[Planting], None]:
    return lambda p: p.after(LAST, edit)


def _weight(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Planting], None]:
    return _edit(lambda module: change_weight(module, name, change))


def _masked_head(module: Module) -> None:
    """One head of one layer attends to nothing."""
    node = nth(ops(module, _ATTENTION), 1)
    heads = int(node.meta["val"].shape[1])
    mask = torch.ones(1, heads, 1)
    mask[0, 1] = 0
    build = Builder(module, node.next)
    masked = build.call(_A.mul.Tensor, node, build.new_weight("planted.mask", mask))
    node.replace_all_uses_with(masked, delete_user_cb=lambda user: user is not masked)


def _bias_twice(module: Module) -> None:
    nodes = [n for n in ops(module, "aten.linear.default") if len(n.args) > 2 and n.args[2] is not None]
    node = nth(nodes, 4)
    twice = Builder(module, node.next).call(_A.add.Tensor, node, node.args[2])
    node.replace_all_uses_with(twice, delete_user_cb=lambda user: user is not twice)


def _wide_scale(module: Module) -> None:
    """Scores are divided by the root of the model's width in place of the head's."""
    for node in ops(module, _ATTENTION):
        set_operand(node, "scale", 128**-0.5)


def _half(module: Module) -> None:
    for name in [n for n in module.weights if len(module.weights.spec(n)[1]) == 2]:
        change_weight(module, name, lambda w: w.to(torch.float16).to(w.dtype))


def _row(index: int, source: int | None) -> Callable[[Tensor], Tensor]:
    """One row is zero, or another row's."""

    def change(weight: Tensor) -> Tensor:
        weight[index] = 0.0 if source is None else weight[source].clone()
        return weight

    return change


def _shifted(weight: Tensor) -> Tensor:
    """Behind the 500th every row is that of the token before."""
    weight[500:] = weight[499:-1].clone()
    return weight


def _channel(weight: Tensor) -> Tensor:
    weight[5] *= 1.02
    return weight


def _sign(weight: Tensor) -> Tensor:
    weight[3, 7] *= -1
    return weight


def _packed_rows(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Planting], None]:
    """Rows of levels in another order."""

    def plant(p: Planting) -> None:
        p.packed(
            lambda packed, weight, form, selected: (
                dataclasses.replace(packed, packed=change(packed.packed.clone()))
                if name in selected.name
                else packed
            )
        )

    return plant


def _repeated_tile(levels: Tensor) -> Tensor:
    levels[-16:] = levels[-32:-16].clone()
    return levels


def _one_scale(p: Planting) -> None:
    """The scale of one group of one row is a tenth off."""

    def edit(packed: PackedWeight, weight: Tensor, form: Any, selected: Any) -> PackedWeight:
        if "layers.1.mlp.up_proj" not in selected.name:
            return packed
        scale = packed.scale.clone()
        scale[9, 0] *= 1.1
        return dataclasses.replace(packed, scale=scale)

    p.packed(edit)


def _positions(batch: Batch) -> Batch:
    return dataclasses.replace(batch, positions=np.minimum(batch.positions, 200))


def _page(executor: OnnxExecutor, batch: Batch) -> Batch:
    """Behind the twelfth page a request reads and writes the twelfth again."""
    table = batch.block_table.copy()
    table[:, 12:] = table[:, 11:12]
    return dataclasses.replace(batch, block_table=table)


def _single(logits: Any, batch: Batch) -> Any:
    """A step of one token runs another kernel, which is a little off."""
    if len(batch.token_ids) == 1:
        logits *= 1.003
    return logits


def _five(logits: Any, batch: Batch) -> Any:
    """From the fifth request of a step on, a little of the first is mixed in."""
    owner = np.searchsorted(batch.query_starts, batch.wanted_rows, side="right") - 1
    late = owner >= 4
    if late.any():
        logits[late] = 0.99 * logits[late] + 0.01 * logits[0]
    return logits


def _large_step(logits: Any, batch: Batch) -> Any:
    """Rows behind the 400th of a step."""
    logits[batch.wanted_rows >= 400] *= 0.98
    return logits


def _stale_scale(p: Planting) -> None:
    """int8 keys of one head take the scale of the token before, at the end of each step."""
    run = OnnxExecutor._run

    def wrong(self: OnnxExecutor, batch: Batch, logits: Any) -> None:
        run(self, batch, logits)
        if not self.spec.kv_scale:
            return  # what checks compare caches floats
        size = self.spec.block_size
        for row, length in enumerate(batch.kv_lengths):
            blocks = [int(block) for block in batch.block_table[row][: -(-int(length) // size)]]
            scales = self._read("k_scale_pool_1", blocks)
            for token in range(5, int(length), 5):
                here, before = (divmod(t, size) for t in (token, token - 1))
                scales[(*here, 0)] = scales[(*before, 0)]
            self._write("k_scale_pool_1", blocks, scales)

    p.patch.setattr(OnnxExecutor, "_run", wrong)


def _coarse_input(kind: str) -> Callable[[Planting], None]:
    """A kernel that rounds what one linear reads in a wrong way; without rounding it is right."""

    def plant(p: Planting) -> None:
        from optcc.backends.onnxruntime import unrounded

        p.graph(lambda model: _insert_rounding(model, kind))
        before = unrounded.unrounded

        def stripped(root: Any) -> bytes | None:
            import onnx

            graph = before(root)
            if graph is None:
                return None
            model = onnx.load_model_from_string(graph)
            for node in model.graph.node:
                for index, name in enumerate(node.input):
                    if name.endswith("/coarse"):
                        node.input[index] = name.removesuffix("/coarse")
            data: bytes = model.SerializeToString()
            return data

        p.patch.setattr(unrounded, "unrounded", stripped)

    return plant


def _insert_rounding(model: Any, kind: str) -> None:
    import onnx

    make, graph = onnx.helper.make_node, model.graph
    # One that reads an attention's output: others normalize theirs first, and behind a gate such faults are found.
    made_by = {name: n.op_type for n in graph.node for name in n.output}
    found = [
        n
        for n in graph.node
        if n.op_type == "QuantizedLinear"
        and "prepare" not in {a.name for a in n.attribute}
        and made_by.get(n.input[0]) != "QuantizedLinear"
    ]
    node = found[len(found) // 2]
    x, place = node.input[0], list(graph.node).index(node)
    steps = np.float32(31.0 if kind == "6 bits" else 127.0)
    axis = np.array([-2 if kind == "axis" else -1], np.int64)
    nearest = np.float32(0.0 if kind == "truncated" else 0.5)
    values = {"steps": steps, "axis": axis, "nearest": nearest, "least": np.float32(1e-9)}
    for name, value in values.items():
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(value), f"{x}/{name}"))
    made = [
        make("Abs", [x], [f"{x}/size"]),
        make("ReduceMax", [f"{x}/size", f"{x}/axis"], [f"{x}/most"], keepdims=1),
        make("Max", [f"{x}/most", f"{x}/least"], [f"{x}/top"]),
        make("Div", [f"{x}/top", f"{x}/steps"], [f"{x}/step"]),
        make("Div", [f"{x}/size", f"{x}/step"], [f"{x}/levels"]),
        make("Add", [f"{x}/levels", f"{x}/nearest"], [f"{x}/above"]),
        make("Floor", [f"{x}/above"], [f"{x}/floor"]),
        make("Mul", [f"{x}/floor", f"{x}/step"], [f"{x}/grid"]),
        make("Sign", [x], [f"{x}/sign"]),
        make("Mul", [f"{x}/grid", f"{x}/sign"], [f"{x}/coarse"]),
    ]
    for offset, one in enumerate(made):
        graph.node.insert(place + offset, one)
    node.input[0] = f"{x}/coarse"


def _split_markers(data: dict[str, Any]) -> None:
    """Markers of a turn are no tokens of their own any more."""
    data["added_tokens"] = [t for t in data["added_tokens"] if "user" not in t["content"]]


def _half_characters(p: Planting) -> None:
    """Text is sent in the middle of a character."""
    from optcc.runtime import tokenizer

    p.patch.setattr(tokenizer, "REPLACEMENT", "\0")


def _no_system(template: str) -> str:
    return template.replace("{% for m in messages %}", _SYSTEM).replace(
        "{% endfor %}", "{% endif %}{% endfor %}"
    )


def _trimmed(template: str) -> str:
    return template.replace("m['content']", "m['content'] | trim")


_HEAD, _TABLE, _UP = "lm_head", "embed_tokens", "layers.1.mlp.up_proj"
_SYSTEM = "{% for m in messages %}{% if m['role'] != 'system' %}"
FAULTS = (
    Fault("one head masked", "pass", _edit(_masked_head)),
    Fault("a bias added twice", "pass", _edit(_bias_twice)),
    Fault("attention scale of the model's width", "pass", _edit(_wide_scale)),
    Fault("one channel of a norm 2 % off", "pass", _weight("model.layers.1.post_attention_layernorm.weight", _channel)),
    Fault("sign of one value", "pass", _weight("model.layers.1.mlp.down_proj.weight", _sign), recipes=PLAIN),
    Fault("weights through float16", "pass", _edit(_half), recipes=PLAIN),
    Fault("last embedding row zero", "pass", _weight("model.embed_tokens.weight", _row(-1, None))),
    Fault("embedding of a rare token is another's", "pass", _weight("model.embed_tokens.weight", _row(3, 4))),
    Fault("embedding rows shifted at the end", "pass", _weight("model.embed_tokens.weight", _shifted)),
    Fault("last row of the head zero", "pass", _weight("lm_head.weight", _row(-1, None))),
    Fault("last row of the head is its neighbour's", "pass", _weight("lm_head.weight", _row(-1, -2)), recipes=PLAIN),
    Fault("packed head ends in its neighbour's row", "quantizer", _packed_rows(_HEAD, _row(-1, -2)), recipes=QUANTIZED),
    Fault("packed embedding rows shifted", "quantizer", _packed_rows(_TABLE, _shifted), recipes=QUANTIZED),
    Fault("last tile of a weight repeated", "quantizer", _packed_rows(_UP, _repeated_tile), recipes=QUANTIZED),
    Fault("one scale of one row a tenth off", "quantizer", _one_scale, recipes=QUANTIZED),
    Fault("positions stop at 200", "kernel", lambda p: p.batch(lambda _, batch: _positions(batch))),
    Fault("pages behind the twelfth", "kernel", lambda p: p.batch(_page)),
    Fault("steps of one token", "kernel", lambda p: p.logits(_single)),
    Fault("fifth request of a step", "kernel", lambda p: p.logits(_five)),
    Fault("rows behind the 400th of a step", "kernel", lambda p: p.logits(_large_step)),
    Fault("stale scale of one head's keys", "kernel", _stale_scale, recipes=("kv8",)),
    Fault("inputs of one linear in 6 bits", "kernel", _coarse_input("6 bits"), recipes=QUANTIZED),
    Fault("inputs of one linear truncated", "kernel", _coarse_input("truncated"), recipes=QUANTIZED),
    Fault("inputs of one linear by columns", "kernel", _coarse_input("axis"), recipes=QUANTIZED),
    Fault("markers of a turn split", "tokenizer", _tokens(_split_markers), recipes=ONCE),
    Fault("system message dropped", "tokenizer", _file("chat_template.jinja", _no_system), recipes=ONCE),
    Fault("messages stripped of blanks", "tokenizer", _file("chat_template.jinja", _trimmed), recipes=ONCE),
    Fault("an end token too many", "tokenizer", _special(eos_token_ids=[2, 40]), recipes=ONCE),
    Fault("characters sent in halves", "tokenizer", _half_characters, recipes=ONCE),
)  # fmt: skip
