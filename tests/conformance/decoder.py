"""A decoder small enough to check by hand, and every way to feed it: schedules of steps over shuffled pages.

Keys and values are rows of tables, so pools must agree bit for bit between backends; queries of the second layer depend
on the first, so an error anywhere reaches the logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from optcc.ir.builder import Builder
from optcc.ir.module import Module
from optcc.ir.types import parse_type
from optcc.pm import Context, build_pass
from optcc.runtime.executor import Batch, Executor, ModelSpec
from tests.conformance.cases import weight

A: Any = torch.ops.aten
VOCAB, BLOCK = 23, 4
INPUTS = {
    "input_ids": "i64[T]",
    "position_ids": "i64[T]",
    "query_starts": "i32[R + 1]",
    "logit_rows": "i64[W]",
}


@dataclass(frozen=True)
class Shape:
    """Heads, KV heads and head width, per layer the window and the soft-cap, and whether heads have sinks."""

    heads: int
    kv_heads: int
    width: int
    windows: tuple[int, ...]
    softcap: float = 0.0
    sinks: bool = False


SHAPES = {
    "plain": Shape(2, 2, 8, (0, 0)),
    "grouped": Shape(6, 2, 4, (0, 0)),
    "one-kv-head": Shape(4, 1, 8, (0, 0)),
    "windows": Shape(4, 2, 8, (3, 0)),
    "window-of-one": Shape(2, 1, 8, (1, 5)),
    "softcap": Shape(4, 2, 8, (0, 6), 1.5),
    "sinks": Shape(6, 2, 8, (3, 0), sinks=True),
}


def stateless(shape: Shape) -> Module:
    """The decoder as captured."""
    module = Module()
    graph = module.graphs["model"] = fx.Graph()
    nodes = {}
    for name, kind in INPUTS.items():
        nodes[name] = graph.placeholder(name)
        nodes[name].meta["val"] = parse_type(kind, module.dims)
    end = graph.output(())
    b = Builder(module, end)
    wide = shape.heads * shape.width
    total = b.call(A.embedding.default, b.new_weight("embed", weight(VOCAB, wide)), nodes["input_ids"])
    for layer, window in enumerate(shape.windows):
        q = b.reshape(total, [-1, shape.heads, shape.width])
        k, v = (_rows(b, nodes["input_ids"], shape, f"{kind}{layer}", layer) for kind in "kv")
        attention = b.call(
            torch.ops.optcc.attention.default,
            *(q, k, v, nodes["query_starts"], 0.7, window, shape.softcap),
            b.new_weight(f"sinks{layer}", weight(shape.heads, seed=layer)) if shape.sinks else None,
        )
        total = b.call(A.add.Tensor, total, b.reshape(attention, [-1, wide]))
    picked = b.call(A.index.Tensor, total, [nodes["logit_rows"]])
    logits = b.call(A.linear.default, picked, b.new_weight("head", weight(VOCAB, wide, seed=99)))
    end.args = ((logits,),)
    end.meta.update(names=("logits",), val=None)
    module.attrs["kind"] = "decoder"
    return module


def _rows(b: Builder, ids: Any, shape: Shape, name: str, layer: int) -> Any:
    table = b.new_weight(name, weight(VOCAB, shape.kv_heads * shape.width, seed=7 * layer + ord(name[0])))
    return b.reshape(b.call(A.embedding.default, table, ids), [-1, shape.kv_heads, shape.width])


def quantized(shape: Shape, kind: str, scale: str = "float32") -> Module:
    """The decoder as captured, with quantized keys and values."""
    module = stateless(shape)
    build_pass("quantize.kv", {"type": kind, **({"scale": scale} if scale else {})}).run(module, Context())
    return module


def paged(shape: Shape, block: int = BLOCK, kind: str = "", scale: str = "float32") -> Module:
    """The decoder with a paged cache, of the model's own type or quantized."""
    module = quantized(shape, kind, scale) if kind else stateless(shape)
    build_pass("serve.paged-kv", {"block-size": block}).run(module, Context())
    return module


def spec_of(shape: Shape, block: int = BLOCK, kind: str = "float32", scale: str = "") -> dict[str, Any]:
    """What its manifest would say."""
    layers = len(shape.windows)
    return ModelSpec(layers, shape.kv_heads, shape.width, VOCAB, block, 4096, (0,), kind, scale).to_json()


Step = dict[int, int]
"""Request -> how many of its tokens the step takes."""


@dataclass
class Play:
    """Texts fed to an executor step by step; `tables` are each text's blocks in the pool."""

    executor: Executor
    texts: Sequence[npt.NDArray[np.int64]]
    seed: int = 0

    def __post_init__(self) -> None:
        size = self.executor.spec.block_size
        needed = [-(-len(t) // size) for t in self.texts]
        self.blocks = sum(needed) + 3
        shuffled = np.random.default_rng(self.seed).permutation(self.blocks)
        cuts = np.cumsum([0, *needed])
        self.tables = [shuffled[a:b] for a, b in pairwise(cuts)]
        self.done = [0] * len(self.texts)
        self.executor.bind(self.blocks)

    def step(
        self, counts: Step, *, rows: bool = True, extra_columns: int = 0
    ) -> dict[int, npt.NDArray[np.float32]]:
        """Run one step; the logits of every token of each request, or none."""
        size = self.executor.spec.block_size
        ends = {r: self.done[r] + n for r, n in counts.items()}
        columns = max(-(-end // size) for end in ends.values()) + extra_columns
        table = np.zeros((len(counts), columns), np.int32)
        for row, (r, end) in enumerate(ends.items()):
            used = self.tables[r][: -(-end // size)]
            table[row, : len(used)] = used
        spans = [(self.done[r], end) for r, end in ends.items()]
        starts = np.cumsum([0, *counts.values()]).astype(np.int32)
        batch = Batch(
            token_ids=np.concatenate([self.texts[r][a:b] for r, (a, b) in zip(counts, spans, strict=True)]),
            positions=np.concatenate([np.arange(a, b, dtype=np.int64) for a, b in spans]),
            query_starts=starts,
            kv_lengths=np.array([b for _, b in spans], np.int32),
            block_table=table,
            wanted_rows=np.arange(starts[-1] if rows else 0, dtype=np.int64),
        )
        logits = self.executor.logits(self.executor.step(batch)).copy()
        for r, end in ends.items():
            self.done[r] = end
        if not rows:
            assert logits.shape == (0, VOCAB)
            return {}
        return {r: logits[a:b] for r, a, b in zip(counts, starts, starts[1:], strict=False)}

    def run(self, steps: Sequence[Step]) -> list[npt.NDArray[np.float32]]:
        """All steps; each text's logits in order."""
        found: list[list[npt.NDArray[np.float32]]] = [[] for _ in self.texts]
        for counts in steps:
            for r, rows in self.step(counts).items():
                found[r].append(rows)
        return [np.concatenate(rows) for rows in found]


def texts_of(lengths: Sequence[int], seed: int = 0) -> list[npt.NDArray[np.int64]]:
    """Random texts."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCAB, n) for n in lengths]


def move_blocks(play: Play) -> npt.NDArray[Any]:
    """Move a request's two blocks to spare ones, one by a copy, one out and in again, and clear the old ones.

    Returns what was taken out; in the pool it is the same to the bit.
    """
    executor, (first, second) = play.executor, (int(b) for b in play.tables[0])
    spare = [b for b in range(play.blocks) if b not in (first, second)]
    executor.copy_blocks([(first, spare[0])])
    data = executor.export_blocks([second])
    executor.import_blocks([spare[1]], data)
    np.testing.assert_array_equal(executor.export_blocks([spare[1]]), data)
    executor.import_blocks([first, second], np.zeros((2, *data.shape[1:]), np.float32))
    play.tables[0] = np.array(spare[:2])
    return data
