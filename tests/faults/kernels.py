"""Faults of lowerings, kernels and executors: the program is right, and what runs is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import fx

from optcc.backends.onnxruntime.executor import OnnxExecutor
from optcc.runtime.executor import Batch
from tests.faults.fault import Fault
from tests.faults.plant import Planting

_GATED = "optcc.gated_activation.default"
_ATTENTION = "optcc.paged_attention.default"
Operands = list[Any]


def _given(operator: str, index: int, change: Callable[[Any], Any]) -> Callable[[Planting], None]:
    """A lowering that reads one operand wrongly."""

    def wrong(node: fx.Node, operands: Operands) -> Operands:
        operands[index] = change(operands[index])
        return operands

    return lambda p: p.lowering(operator, wrong)


def _swapped(first: int, second: int, operator: str = _ATTENTION) -> Callable[[Planting], None]:
    def wrong(node: fx.Node, operands: Operands) -> Operands:
        operands[first], operands[second] = operands[second], operands[first]
        return operands

    return lambda p: p.lowering(operator, wrong)


_LINEARS = ("QuantizedLinear", "MatMulNBits", "FusedMatMul", "MatMul", "Gemm")


def _after_linear(p: Planting, index: int, insert: Callable[[Any, str, str], Sequence[Any]]) -> None:
    """Put nodes behind one linear of the ONNX graph: `insert(helper, from, to)`."""

    def edit(model: Any) -> None:
        import onnx

        graph = model.graph
        found = [n for n in graph.node if n.op_type in _LINEARS]
        node = found[index % len(found)]
        name = node.output[0]
        node.output[0] = f"{name}/planted"
        place = list(graph.node).index(node) + 1
        for offset, made in enumerate(insert(onnx, f"{name}/planted", name)):
            graph.node.insert(place + offset, made)

    p.graph(edit)


def _constant(onnx: Any, name: str, value: np.ndarray) -> Any:
    return onnx.helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(value, name))


def _tail(p: Planting) -> None:
    """The columns after the last whole 48 of a row stay zero."""
    width = 128

    def insert(onnx: Any, source: str, target: str) -> list[Any]:
        mask = np.ones(width, np.float32)
        mask[width - width % 48 :] = 0
        return [
            _constant(onnx, f"{target}/mask", mask),
            onnx.helper.make_node("Mul", [source, f"{target}/mask"], [target]),
        ]

    _after_linear(p, 3, insert)


def _through(kind: str, index: int, factor: float = 1.0) -> Callable[[Planting], None]:
    """A linear's result passes through a narrower type."""

    def insert(onnx: Any, source: str, target: str) -> list[Any]:
        make, types = onnx.helper.make_node, onnx.TensorProto
        scale, back = np.float32(factor), np.float32(1 / factor)
        return [
            _constant(onnx, f"{target}/up", scale),
            _constant(onnx, f"{target}/down", back),
            make("Mul", [source, f"{target}/up"], [f"{target}/scaled"]),
            make("Cast", [f"{target}/scaled"], [f"{target}/narrow"], to=getattr(types, kind)),
            make("Cast", [f"{target}/narrow"], [f"{target}/wide"], to=types.FLOAT),
            make("Mul", [f"{target}/wide", f"{target}/down"], [target]),
        ]

    return lambda p: _after_linear(p, index, insert)


def _saturated(p: Planting) -> None:
    """Sums that saturate: nothing beyond two standard deviations."""

    def insert(onnx: Any, source: str, target: str) -> list[Any]:
        return [
            _constant(onnx, f"{target}/low", np.float32(-2.0)),
            _constant(onnx, f"{target}/high", np.float32(2.0)),
            onnx.helper.make_node("Clip", [source, f"{target}/low", f"{target}/high"], [target]),
        ]

    _after_linear(p, 2, insert)


def _attribute(operator: str, name: str, value: float) -> Callable[[Planting], None]:
    """A wrong attribute on every node of a kind."""

    def edit(model: Any) -> None:
        import onnx

        found = [n for n in model.graph.node if n.op_type == operator]
        assert found, operator
        for node in found:
            kept = [a for a in node.attribute if a.name != name]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])

    return lambda p: p.graph(edit)


def _rotary(edit: Callable[[Any], None]) -> Callable[[Planting], None]:
    """Rotation, which attention does itself: every such node is changed."""

    def every(model: Any) -> None:
        found = [n for n in model.graph.node if n.op_type == "PagedAttention" and len(n.input) > 13]
        assert found
        for node in found:
            edit(node)

    return lambda p: p.graph(every)


def _gelu_for_silu(p: Planting) -> None:
    """Whoever computes the gate: the operator's own lowering, or the linear that takes it in."""
    _given(_GATED, 1, lambda k: "gelu")(p)

    def edit(model: Any) -> None:
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name in ("prepare", "activation") and attribute.s == b"silu":
                    attribute.s = b"gelu_tanh"

    p.graph(edit)


def _other_pairs(node: Any) -> None:
    for attribute in node.attribute:
        if attribute.name == "rotary_interleaved":
            attribute.i = 1 - attribute.i


def _sine_for_cosine(node: Any) -> None:
    node.input[12], node.input[13] = node.input[13], node.input[12]


def _mask_off_by_one(p: Planting) -> None:
    """ONNX Runtime's own operators: a query sees the key after its own."""
    from optcc.backends.onnxruntime.lower import ragged

    p.patch.setenv("OPTCC_NATIVE", "off")
    before = ragged.paged_keys

    def wrong(emit: Any, *rest: Any) -> Any:
        keys = before(emit, *rest)
        import torch

        later = emit.op("Add", [keys.position, emit.number(1, torch.int64)])
        return replace(keys, position=later)

    p.patch.setattr(ragged, "paged_keys", wrong)


def _own_chunk_only(executor: OnnxExecutor, batch: Batch) -> Batch:
    """A chunk of a prompt forgets what was there before it."""
    counts = np.diff(batch.query_starts)
    return replace(batch, kv_lengths=np.where(counts > 1, counts, batch.kv_lengths).astype(np.int32))


def _rows_exchanged(executor: OnnxExecutor, batch: Batch) -> Batch:
    """Two requests' rows of the block table."""
    table = batch.block_table.copy()
    if len(table) > 1:
        table[[0, 1]] = table[[1, 0]]
    return replace(batch, block_table=table)


def _last_page(executor: OnnxExecutor, batch: Batch) -> Batch:
    """A page that is just full: its successor isn't there yet, and the kernel takes the first page."""
    table = batch.block_table.copy()
    full = batch.kv_lengths % executor.spec.block_size == 1
    for row, (length, just) in enumerate(zip(batch.kv_lengths, full, strict=True)):
        if just and length > 1:
            table[row, (length - 1) // executor.spec.block_size] = table[row, 0]
    return replace(batch, block_table=table)


def _wrong_slot(executor: OnnxExecutor, batch: Batch) -> Batch:
    """Decode writes its key one slot too far and reads one that nobody wrote."""
    counts = np.diff(batch.query_starts)
    room = batch.kv_lengths % executor.spec.block_size != 0
    later = batch.kv_lengths + ((counts == 1) & (batch.kv_lengths > 1) & room)
    return replace(batch, kv_lengths=later.astype(np.int32))


def _first_of_longest(executor: OnnxExecutor, batch: Batch) -> Batch:
    """Requests of one token are given the length of the longest one, as padding would."""
    counts = np.diff(batch.query_starts)
    most = (batch.block_table != 0).sum(-1).max() * executor.spec.block_size
    if len(counts) < 2:
        return batch
    longest = int(min(batch.kv_lengths.max(), most))
    have = np.maximum((batch.block_table != 0).sum(-1), 1) * executor.spec.block_size
    lengths = np.where(counts == 1, np.minimum(longest, have), batch.kv_lengths)
    return replace(batch, kv_lengths=np.maximum(lengths, batch.kv_lengths).astype(np.int32))


def _shifted_rows(logits: Any, batch: Batch) -> Any:
    """With several requests, each gets the next one's row."""
    if len(batch.kv_lengths) > 1 and len(logits) > 1:
        logits[:] = np.roll(logits, 1, axis=0)
    return logits


def _row_before(executor: OnnxExecutor, batch: Batch) -> Batch:
    """The row before the wanted one, where several are asked for out of a chunk."""
    rows = batch.wanted_rows
    if len(rows) and len(rows) < len(batch.token_ids):
        rows = np.maximum(rows - 1, 0)
        rows = np.unique(rows) if len(np.unique(rows)) == len(rows) else batch.wanted_rows
    return replace(batch, wanted_rows=rows.astype(np.int64))


def _dependent(logits: Any, batch: Batch) -> Any:
    """Rows that lean on their neighbours: two products of different blockings."""
    if len(batch.kv_lengths) > 1 and len(logits) > 1:
        logits[:] = 0.97 * logits + 0.03 * logits.mean(0, keepdims=True)
    return logits


def _rare_nan(logits: Any, batch: Batch) -> Any:
    """After one rare token a row is not a number."""
    for row, index in enumerate(batch.wanted_rows):
        if batch.token_ids[index] == 77:
            logits[row, -1] = np.nan
    return logits


def _rare_inf(logits: Any, batch: Batch) -> Any:
    for row, index in enumerate(batch.wanted_rows):
        if batch.token_ids[index] == 77:
            logits[row, 100] = np.inf
    return logits


def _tail_of_logits(logits: Any, batch: Batch) -> Any:
    """The vocabulary's last columns hold what the step before left there."""
    logits[1:, -24:] = logits[:1, -24:]
    return logits


def _long_rows(logits: Any, batch: Batch) -> Any:
    """Behind the 96th token of a request everything is a little off."""
    for row, index in enumerate(batch.wanted_rows):
        if batch.positions[index] >= 96:
            logits[row] *= 0.9
    return logits


def _first_row(logits: Any, batch: Batch) -> Any:
    """The first row of a step is computed with a stale register."""
    if len(batch.wanted_rows) and batch.wanted_rows[0] == 0:
        logits[0] *= 0.5
    return logits


def _epsilons(p: Planting) -> None:
    """Whoever computes the norm: its operators' own lowerings, or the linear that takes it in."""
    for operator, index in (("optcc.rms_norm.default", 2), ("optcc.add_rms_norm.default", 3)):
        _given(operator, index, lambda e: e * 1000)(p)

    def edit(model: Any) -> None:
        linears = [node for node in model.graph.node if node.op_type == "QuantizedLinear"]
        norms = [a for node in linears for a in node.attribute if a.name == "epsilon"]
        for last in norms[-1:]:  # no larger a fault than when that norm alone was an operator
            last.f *= 1000

    p.graph(edit)


def _batch(change: Callable[[OnnxExecutor, Batch], Batch]) -> Callable[[Planting], None]:
    return lambda p: p.batch(change)


def _logits(change: Callable[[Any, Batch], Any]) -> Callable[[Planting], None]:
    return lambda p: p.logits(change)


FAULTS = (
    Fault("lowered norm epsilon x 1000", "lowering", _epsilons),
    Fault("lowered attention scale x 1.1", "lowering", _given(_ATTENTION, 9, lambda s: s * 1.1)),
    Fault("lowered window dropped", "lowering", _given(_ATTENTION, 10, lambda w: 0), "mistral"),
    Fault("lowered window off by one", "lowering", _given(_ATTENTION, 10, lambda w: w - 1), "mistral"),
    Fault("lowered softcap dropped", "lowering", _given(_ATTENTION, 11, lambda c: 0.0), "gemma2"),
    Fault("lowered rope interleaved", "lowering", _rotary(_other_pairs)),
    Fault("lowered activation gelu for silu", "lowering", _gelu_for_silu),
    Fault("lowered key and value pools exchanged", "lowering", _swapped(1, 2)),
    Fault("lowered rotary sine and cosine exchanged", "lowering", _rotary(_sine_for_cosine)),
    Fault("KV scales of keys and values exchanged", "lowering", _swapped(12, 13), recipes=("kv8",)),
    Fault("wrong ONNX attribute: norm epsilon", "lowering", _attribute("LayerNormalization", "epsilon", 0.05), "gpt2"),
    Fault("kernel leaves out the tail of a row", "kernel", _tail),
    Fault("sums in float16", "kernel", _through("FLOAT16", 3)),
    Fault("sums in bfloat16", "kernel", _through("BFLOAT16", 3)),
    Fault("overflow of float16", "kernel", _through("FLOAT16", 5, 3e4)),
    Fault("sums that saturate", "kernel", _saturated),
    Fault("causal mask off by one", "kernel", _mask_off_by_one),
    Fault("last columns of logits stale", "kernel", _logits(_tail_of_logits)),
    Fault("first row of a step wrong", "kernel", _logits(_first_row)),
    Fault("rows behind the 96th token off", "kernel", _logits(_long_rows)),
    Fault("NaN after a rare token", "kernel", _logits(_rare_nan)),
    Fault("infinity after a rare token", "kernel", _logits(_rare_inf)),
    Fault("rows of a batch lean on each other", "kernel", _logits(_dependent)),
    Fault("rows of two requests exchanged", "runtime", _logits(_shifted_rows)),
    Fault("row before the wanted one", "runtime", _batch(_row_before)),
    Fault("a chunk forgets the earlier ones", "kernel", _batch(_own_chunk_only)),
    Fault("rows of the block table exchanged", "kernel", _batch(_rows_exchanged)),
    Fault("block boundary off by one", "kernel", _batch(_last_page)),
    Fault("new key in the wrong slot", "kernel", _batch(_wrong_slot)),
    Fault("short requests read stale keys", "kernel", _batch(_first_of_longest)),
)  # fmt: skip
