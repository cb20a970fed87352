"""ONNX Runtime behind the runtime's contracts. Imports neither torch nor transformers.

The pools are numpy arrays of ours. Our native operator writes to the memory of its inputs; without it each pool is
bound as input and as result to the same memory, and ONNX Runtime's ScatterND then writes in place. Either way a step
costs what it attends to, whatever the pool's size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from optcc.backends.onnxruntime.native.pools import read_blocks, write_blocks
from optcc.backends.onnxruntime.native.sampling import Rows, sample
from optcc.backends.onnxruntime.session import open_session
from optcc.errors import IncompatibleArtifact, PoolTooSmall
from optcc.runtime.executor import Array, Batch, FloatArray, ModelSpec, StepHandle
from optcc.runtime.pools import pool_kinds, requantize
from optcc.runtime.sampler import SamplingParams

_LINE, _HUGE_PAGE = 64, 2 << 20
_ANY_ROW = np.zeros(1, np.int64)
_SLACK = 32
"""Padded rows that cost less than another call."""


def aligned(shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
    """A zeroed array that starts at a cache line.

    From 4 MiB on numpy asks Linux for huge pages: such a one starts at one, so that all of it lies in them. Pages of a
    KV cache lie anywhere, and finding each in small pages of memory takes time of its own.
    """
    kind = np.dtype(dtype)
    size = int(np.prod(shape)) * kind.itemsize
    unit = _HUGE_PAGE if size >= 2 * _HUGE_PAGE else _LINE
    raw = np.zeros(size + unit, np.uint8)
    start = -raw.ctypes.data % unit
    return raw[start : start + size].view(kind).reshape(shape)


class OnnxExecutor:
    """A decoder with its KV pools.

    Args:
        root: the artifact.
        spec: the manifest's `spec`.
        threads: 0 means one per physical core.
        graph: a serialized model to run in place of the artifact's own.
    """

    def __init__(self, root: Path, spec: Mapping[str, Any], threads: int, graph: bytes | None = None) -> None:
        self._spec = ModelSpec.from_json(spec)
        kind = (self._spec.kv_dtype, self._spec.kv_scale)
        if kind not in (("float32", ""), ("float16", ""), ("int8", "float32")):
            raise IncompatibleArtifact(
                f"the KV pool is of type {' with scales of type '.join(filter(None, kind))}, "
                "this backend has float32, float16, and int8 with float32 scales",
                where="manifest.json: spec",
            )
        self._session = open_session(root, threads, graph)
        self._binding = self._session.io_binding()
        # Pools that ONNX Runtime's own operators write are results too.
        self._results = frozenset(value.name for value in self._session.get_outputs()) - {"logits"}
        self._stacked = any(value.name == "k_pools" for value in self._session.get_inputs())
        self._pools: dict[str, Array] = {}
        self._rows: FloatArray = np.empty((0, self._spec.vocab), np.float32)
        self._wanted = Rows(self._rows)
        self._inputs: dict[str, Array] = {}
        self._bound_logits: FloatArray | None = None

    @property
    def spec(self) -> ModelSpec:
        """What is being served."""
        return self._spec

    @property
    def block_bytes(self) -> int:
        """Bytes of one block over all layers, keys and values with their scales."""
        return self._spec.block_bytes

    def bind(self, blocks: int) -> None:
        """Allocate zeroed pools and bind them for good."""
        s = self._spec
        self._binding = self._session.io_binding()
        self._inputs, self._bound_logits = {}, None
        self._pools = {}  # freed before new ones are made
        for kind in pool_kinds(s):
            dtype = np.dtype(kind.dtype).type
            whole = aligned((s.layers, blocks, s.block_size, s.kv_heads, kind.channels), dtype)
            if self._stacked:
                self._bind(f"{kind.name}s", whole)
            for layer, pool in enumerate(whole):
                name = f"{kind.name}_{layer}"
                self._pools[name] = pool
                if not self._stacked:
                    self._bind(name, pool)

    def _bind(self, name: str, pool: Array) -> None:
        place = ("cpu", 0, pool.dtype.type, pool.shape, pool.ctypes.data)
        self._binding.bind_input(name, *place)
        if (result := f"{name}.out") in self._results:
            self._binding.bind_output(result, *place)

    def step(self, batch: Batch) -> StepHandle:
        """Run the batch; the pools are changed in place.

        Without the native operator, which takes tokens as they come, requests are padded to the longest: then parts of
        similar length run one after another.
        """
        if not self._pools:
            raise PoolTooSmall("no KV pool is bound")
        logits = self._room(len(batch.wanted_rows))
        parts = split(batch, self._spec.block_size) if self._results else None
        if len(logits) and (parts is None or len(parts) == 1):
            self._run(parts[0].batch if parts else batch, logits)
            return logits
        for part in parts or [_whole(batch)]:
            self._run_part(part, logits)
        return logits

    def _room(self, wanted: int) -> FloatArray:
        """Where a step's logits go: for the same number of rows it is the same array, which is bound already."""
        if len(self._wanted.logits) != wanted:
            if len(self._rows) < wanted:
                self._rows = aligned((wanted, self._spec.vocab), np.float32)
            self._wanted = Rows(self._rows[:wanted])
        return self._wanted.logits

    def _run_part(self, part: Part, logits: FloatArray) -> None:
        count = max(1, len(part.batch.wanted_rows))
        rows = aligned((count, self._spec.vocab), np.float32)
        self._run(part.batch, rows)
        if len(part.wanted):
            logits[part.wanted] = rows

    def _run(self, batch: Batch, logits: FloatArray) -> None:
        """One call; `logits` gets a row for each wanted row, or one row that nobody reads when none is wanted."""
        rows = batch.wanted_rows if len(batch.wanted_rows) else _ANY_ROW
        inputs: dict[str, Array] = {
            "input_ids": batch.token_ids,
            "position_ids": batch.positions,
            "query_starts": batch.query_starts,
            "kv_lengths": batch.kv_lengths,
            "block_table": batch.block_table,
            "logit_rows": rows,
        }
        for name, array in inputs.items():
            self._bound(name, array)[...] = array
        if self._bound_logits is not logits:
            self._binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
            self._bound_logits = logits
        self._session.run_with_iobinding(self._binding)

    def _bound(self, name: str, like: Array) -> Array:
        """The memory that is bound as an input of this shape: the last step's, where it has the shape."""
        bound = self._inputs.get(name)
        if bound is None or bound.shape != like.shape:
            bound = aligned(like.shape, like.dtype)
            self._binding.bind_input(name, "cpu", 0, like.dtype.type, bound.shape, bound.ctypes.data)
            self._inputs[name] = bound
        return bound

    def logits(self, handle: StepHandle) -> FloatArray:
        """f32[W, V], good until the next step."""
        assert isinstance(handle, np.ndarray)
        return handle

    def sample(
        self, handle: StepHandle, params: Sequence[SamplingParams], positions: Sequence[int]
    ) -> list[int]:
        """A token for each row."""
        if handle is self._wanted.logits:
            return self._wanted.sample(params, positions)
        return sample(self.logits(handle), params, positions)

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole blocks, in order."""
        for pool in self._pools.values():
            for source, target in pairs:
                pool[target] = pool[source]

    def export_blocks(self, ids: Sequence[int]) -> FloatArray:
        """f32[len(ids), L, 2, K, G, C]."""
        s, where = self._spec, list(ids)
        blocks: FloatArray = np.empty(
            (len(where), s.layers, 2, s.block_size, s.kv_heads, s.head_dim), np.float32
        )
        for layer in range(s.layers):
            for side, kind in enumerate("kv"):
                blocks[:, layer, side] = self._read(f"{kind}_pool_{layer}", where)
                if s.kv_scale:
                    blocks[:, layer, side] *= self._read(f"{kind}_scale_pool_{layer}", where)
        return blocks

    def import_blocks(self, ids: Sequence[int], data: FloatArray) -> None:
        """The inverse of `export_blocks`."""
        s, where = self._spec, list(ids)
        for layer in range(s.layers):
            for side, kind in enumerate("kv"):
                values: Array = data[:, layer, side]
                if s.kv_scale:
                    values, scale = requantize(values, s.kv_dtype, s.kv_scale, np.rint)
                    self._write(f"{kind}_scale_pool_{layer}", where, scale)
                self._write(f"{kind}_pool_{layer}", where, values)

    def _read(self, name: str, blocks: Sequence[int]) -> Array:
        """Blocks of a pool as rows [len(blocks), K, G, c], whatever their order in memory."""
        pool = self._pools[name]
        found: Array = pool[list(blocks)] if self._results else read_blocks(name, pool, blocks)
        return found

    def _write(self, name: str, blocks: Sequence[int], rows: Array) -> None:
        """The inverse of `_read`."""
        pool = self._pools[name]
        if self._results:
            pool[list(blocks)] = rows
        else:
            write_blocks(name, pool, blocks, rows)

    def close(self) -> None:
        """Drop session and pools."""
        self._binding = self._session = None
        self._pools = {}


class OnnxFunction:
    """A plain function: named arrays in, named arrays out."""

    def __init__(self, root: Path, threads: int) -> None:
        self._session = open_session(root, threads)
        self._names = [value.name for value in self._session.get_outputs()]
        self._inputs = {value.name for value in self._session.get_inputs()}

    def call(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once."""
        given = {name: np.asarray(value, order="C") for name, value in inputs.items() if name in self._inputs}
        return dict(zip(self._names, self._session.run(self._names, given)))


@dataclass(frozen=True)
class Part:
    """Some requests of a step, and which of the step's wanted rows are theirs."""

    batch: Batch
    wanted: npt.NDArray[np.int64]


def _whole(batch: Batch) -> Part:
    return Part(batch, np.arange(len(batch.wanted_rows)))


def split(batch: Batch, block_size: int) -> list[Part]:
    """Parts that together are the batch. A batch of similar lengths stays whole.

    Args:
        batch: the step.
        block_size: tokens per block, to cut columns of the table that no request of a part uses.
    """
    lengths = np.diff(batch.query_starts)
    if len(lengths) * int(lengths.max()) <= 2 * int(lengths.sum()) + _SLACK:
        return [_whole(_take(batch, np.arange(len(lengths)), block_size))]
    # Lengths within a factor of two share a part.
    kinds = np.floor(np.log2(lengths)).astype(np.int64)
    owner = np.searchsorted(batch.query_starts, batch.wanted_rows, side="right") - 1
    parts = []
    for kind in np.unique(kinds):
        chosen = np.flatnonzero(kinds == kind)
        parts.append(Part(_take(batch, chosen, block_size), np.flatnonzero(np.isin(owner, chosen))))
    return parts


def _take(batch: Batch, chosen: npt.NDArray[np.int64], block_size: int) -> Batch:
    """The batch of some of the requests."""
    starts, kv_lengths = batch.query_starts, batch.kv_lengths[chosen]
    columns = -(-int(kv_lengths.max()) // block_size)
    table = np.ascontiguousarray(batch.block_table[chosen, :columns])
    if len(chosen) == len(starts) - 1:
        return Batch(batch.token_ids, batch.positions, starts, kv_lengths, table, batch.wanted_rows)
    tokens = np.concatenate([np.arange(starts[r], starts[r + 1]) for r in chosen])
    lengths = np.diff(starts)[chosen]
    new_starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    rows = np.flatnonzero(np.isin(tokens, batch.wanted_rows))
    return Batch(batch.token_ids[tokens], batch.positions[tokens], new_starts, kv_lengths, table, rows)
