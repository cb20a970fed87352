"""A graph of one PagedAttention, steps to feed it, and what the interpreter makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from optcc.backends.onnxruntime import native
from optcc.backends.onnxruntime.native.pools import read_blocks
from optcc.ir.ops.attention import paged_attention
from optcc.ir.ops.quantized import quantize_activation
from optcc.ir.ops.rope import rope

Array = npt.NDArray[Any]
KINDS = {"float32": np.float32, "float16": np.float16, "int8": np.int8}
POOLS = {"key_pool": "k_pool", "value_pool": "v_pool", "key_scale_pool": "k_scale_pool"}
POOLS |= {"value_scale_pool": "v_scale_pool"}
SCALES = ("key_scale", "value_scale", "key_scale_pool", "value_scale_pool")
PORTS = (
    "query",
    "key",
    "value",
    "key_pool",
    "value_pool",
    "query_starts",
    "kv_lengths",
    "block_table",
    *SCALES,
)


@dataclass(frozen=True)
class Form:
    """What the graph says: heads, KV heads, width, tokens per block, type of the pools, options, and where it runs."""

    heads: int = 3
    kv_heads: int = 1
    width: int = 64
    block: int = 16
    kind: str = "float32"
    window: int = 0
    softcap: float = 0.0
    scale: float = 0.125
    isa: str = ""
    threads: int = 1
    rotary: int = 0
    """Channels that are rotated."""
    interleaved: bool = False
    sinks: float = 0.0
    """Spread of the heads' sinks; 0: none."""
    joined: bool = False
    """Query, key and value of a token come in one row."""
    floats: bool = False
    """Keys and values for int8 pools come in float32."""
    layer: int = -1
    """Of pools [L, N, K, G, C], which one; -1: pools are [N, K, G, C]."""


@cache
def session(form: Form) -> Any:
    """The graph, opened."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    kinds = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int8": TensorProto.INT8}
    pool = kinds[form.kind]
    new = TensorProto.INT8 if form.kind == "int8" and not form.floats else TensorProto.FLOAT
    row, page = ["T", form.kv_heads, form.width], ["N", form.block, form.kv_heads, form.width]
    page = page if form.layer < 0 else ["L", *page]
    inputs = {
        "query": (TensorProto.FLOAT, ["T", form.heads, form.width]),
        "key": (new, row),
        "value": (new, row),
        "key_pool": (pool, page),
        "value_pool": (pool, page),
        "query_starts": (TensorProto.INT32, ["S"]),
        "kv_lengths": (TensorProto.INT32, ["R"]),
        "block_table": (TensorProto.INT32, ["R", "M"]),
    }
    if form.kind == "int8":
        for name in SCALES[2:] if form.floats else SCALES:
            inputs[name] = (TensorProto.FLOAT, [*(page if "pool" in name else row)[:-1], 1])
    if form.joined:
        inputs["query"] = (TensorProto.FLOAT, [1, "T", "D"])
        del inputs["key"], inputs["value"]
    names = [name if name in inputs else "" for name in PORTS]
    if form.rotary:
        for name in ("cos", "sin"):
            inputs[name] = (TensorProto.FLOAT, None)  # of any rank
    names += ["cos", "sin"] if form.rotary else ["", ""]
    if form.sinks:
        inputs["sinks"] = (TensorProto.FLOAT, [form.heads])
        names.append("sinks")
    node = helper.make_node(
        "PagedAttention",
        names,
        ["out"],
        domain=native.DOMAIN,
        scale=form.scale,
        local_window_size=form.window,
        softcap=form.softcap,
        rotary_interleaved=int(form.interleaved),
        **({} if form.layer < 0 else {"layer": form.layer}),
    )
    values = [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()]
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(native.DOMAIN, 1)]
    model = helper.make_model(
        helper.make_graph([node], "g", values, [out]), opset_imports=opsets, ir_version=10
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = form.threads
    options.log_severity_level = 4
    options.register_custom_ops_library(str(native.library()))
    native.choose_isa(form.isa)
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    finally:
        native.choose_isa("")


def run(made: Any, inputs: dict[str, Array]) -> Array:
    """One call; the pools are bound by address and changed in place."""
    binding = made.io_binding()
    for name, array in inputs.items():
        kind = array.dtype.type
        binding.bind_input(name, "cpu", 0, kind, array.shape, array.ctypes.data)
    binding.bind_output("out")
    made.run_with_iobinding(binding)
    found: Array = binding.copy_outputs_to_cpu()[0]
    return found


@dataclass
class Texts:
    """Requests with all their queries, keys and values, and the pages they are written to.

    `lengths` are whole lengths. The first `shared` pages of all requests are one another's: they hold the same tokens.
    """

    form: Form
    lengths: Sequence[int]
    seed: int = 0
    shared: int = 0
    spread: float = 1.0
    done: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        f, rng = self.form, np.random.default_rng([7, self.seed])
        self.done = [0] * len(self.lengths)

        def rows(count: int, heads: int) -> Array:
            return (rng.standard_normal((count, heads, f.width)) * self.spread).astype(np.float32)

        self.q = [rows(n, f.heads) for n in self.lengths]
        self.new = [self._kept(rows(n, f.kv_heads), rows(n, f.kv_heads), rng) for n in self.lengths]
        self.sinks = (rng.standard_normal(f.heads) * f.sinks).astype(np.float32)
        alike = self.shared * f.block
        for new in self.new[1:]:
            for name, values in new.items():
                values[:alike] = self.new[0][name][:alike]
        self.place(rng)

    def _kept(self, k: Array, v: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Keys and values as the operator gets them."""
        if self.form.kind != "int8":
            return {"key": k, "value": v}
        step = {n: (rng.random((*k.shape[:2], 1)) * 0.03 + 1e-3).astype(np.float32) for n in SCALES[:2]}
        return {
            "key": np.clip(k * 40, -127, 127).astype(np.int8),
            "value": np.clip(v * 40, -127, 127).astype(np.int8),
            **step,
        }

    def place(self, rng: np.random.Generator) -> None:
        """New pools, full of what was there before, and pages anywhere in them."""
        f = self.form
        needed = [max(0, -(-n // f.block) - self.shared) for n in self.lengths]
        self.blocks = self.shared + sum(needed) + 3
        pages = rng.permutation(self.blocks)
        cuts = np.cumsum([self.shared, *needed])
        self.tables = [np.concatenate([pages[: self.shared], pages[a:b]]) for a, b in pairwise(cuts)]
        shape = (self.blocks, f.block, f.kv_heads)
        self.pools = {n: np.full((*shape, f.width), 99, KINDS[f.kind]) for n in ("key_pool", "value_pool")}
        if f.kind == "int8":
            self.pools |= {name: np.full((*shape, 1), 1e6, np.float32) for name in SCALES[2:]}

    def step(self, counts: dict[int, int], extra_columns: int = 0) -> dict[str, Array]:
        """The inputs of a step in which request r takes counts[r] more tokens; some may take none."""
        spans = {r: (self.done[r], self.done[r] + n) for r, n in counts.items()}
        columns = max(-(-end // self.form.block) for _, end in spans.values()) + extra_columns
        table = np.full((len(counts), columns), -1, np.int32)
        for row, (r, (_, end)) in enumerate(spans.items()):
            used = self.tables[r][: -(-end // self.form.block)]
            table[row, : len(used)] = used
        for r, (_, end) in spans.items():
            self.done[r] = end
        gathered = {
            name: np.concatenate([self.new[r][name][a:b] for r, (a, b) in spans.items()])
            for name in self.new[0]
        }
        return {
            "query": np.concatenate([self.q[r][a:b] for r, (a, b) in spans.items()]),
            **gathered,
            **self.pools,
            "query_starts": np.cumsum([0, *counts.values()]).astype(np.int32),
            "kv_lengths": np.array([end for _, end in spans.values()], np.int32),
            "block_table": table,
            **({"sinks": self.sinks} if self.form.sinks else {}),
        }

    def play(self, steps: Sequence[dict[int, int]]) -> list[Array]:
        """All steps; each request's rows in order."""
        made, found = (
            session(self.form),
            [[np.zeros((0, self.form.heads, self.form.width), np.float32)] for _ in self.q],
        )
        for counts in steps:
            rows = run(made, self.step(counts))
            ends = np.cumsum([0, *counts.values()])
            for r, (a, b) in zip(counts, pairwise(ends)):
                found[r].append(rows[a:b])
        return [np.concatenate(rows) for rows in found]

    def whole(self) -> list[dict[int, int]]:
        """All in one step."""
        return [dict(enumerate(self.lengths))]


def raw(form: Form, inputs: dict[str, Array], seed: int = 0) -> tuple[dict[str, Array], dict[str, Array]]:
    """A step as a form that rotates, joins or quantizes takes it, and as the operator takes it after that was done
    outside."""
    tokens, rng = len(inputs["query"]), np.random.default_rng(seed)
    given, plain = dict(inputs), dict(inputs)
    if form.floats:
        for name in ("key", "value"):
            del given[f"{name}_scale"]
            rows = rng.standard_normal((tokens, form.kv_heads, form.width)).astype(np.float32)
            rows[rng.random(rows.shape[:2]) < 0.1] *= 1e-20  # scales of any size
            rows[rng.random(rows.shape[:2]) < 0.1] = 0.0
            given[name] = plain[name] = rows
    if form.rotary:
        angles = rng.random((tokens, form.rotary // 2)) * 6
        given |= {"cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32)}
        tables = [torch.from_numpy(given[name]) for name in ("cos", "sin")]
        for name in ("query", "key"):
            plain[name] = rope(torch.from_numpy(plain[name]), *tables, form.interleaved).numpy()
    if form.floats:
        for name in ("key", "value"):
            levels, scale = quantize_activation(torch.from_numpy(plain[name]), "int8", 0, "float32", None)
            plain |= {name: levels.numpy(), f"{name}_scale": scale.numpy()}
    if form.joined:
        parts = [given.pop(name).reshape(tokens, -1) for name in ("query", "key", "value")]
        given["query"] = np.ascontiguousarray(np.concatenate(parts, 1)[None])
    return given, plain


def in_rows(inputs: dict[str, Array]) -> dict[str, Array]:
    """A copy of a step's inputs whose pools are as the interpreter has them."""
    return {n: read_blocks(POOLS[n], a, range(len(a))) if n in POOLS else a.copy() for n, a in inputs.items()}


def expected(form: Form, inputs: dict[str, Array]) -> Array:
    """What the interpreter makes of a step, whose pools are in rows; it changes the pools as well."""
    given = {name: torch.from_numpy(array) for name, array in inputs.items()}
    table = given["block_table"]
    starts, lengths = inputs["query_starts"], inputs["kv_lengths"]
    positions = [np.arange(n - (b - a), n) for n, (a, b) in zip(lengths, pairwise(starts))]
    found = paged_attention(
        *(given[n] for n in ("query", "key", "value", "key_pool", "value_pool")),
        torch.from_numpy(np.concatenate(positions).astype(np.int64)),
        *(given[n] for n in ("query_starts", "kv_lengths")),
        table.clamp(min=0),
        form.scale,
        form.window,
        form.softcap,
        *(given.get(n) for n in (*SCALES, "sinks")),
    )
    rows: Array = found.numpy()
    return rows
