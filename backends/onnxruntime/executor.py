"""ONNX Runtime behind the runtime's contracts. Imports neither torch nor onnx."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optcc.backends.onnxruntime.session import open_session
from optcc.runtime.executor import Array, Batch, FloatArray, ModelSpec, StepHandle

_ALIGNMENT = 64


@dataclass(frozen=True)
class _Step:
    """The logits of one step."""

    logits: FloatArray


class OnnxExecutor:
    """A decoder. Pools are numpy arrays [N, K, G, C], bound as input and output at once: ScatterND writes in place."""

    def __init__(self, root: Path, spec: Mapping[str, Any], threads: int) -> None:
        self._spec = ModelSpec.from_json(spec)
        self._session = open_session(root, threads)
        self._binding: Any = None
        self._pools: list[Array] = []
        self._logits = np.empty(0, np.float32)

    @property
    def spec(self) -> ModelSpec:
        """What is being served."""
        return self._spec

    @property
    def block_bytes(self) -> int:
        """Bytes of one block over all layers, keys and values."""
        s = self._spec
        return s.layers * 2 * s.block_size * s.kv_heads * s.head_dim * np.dtype(s.kv_dtype).itemsize

    def bind(self, blocks: int) -> None:
        """Allocate zeroed pools and bind them."""
        s = self._spec
        shape = (blocks, s.block_size, s.kv_heads, s.head_dim)
        self._binding = self._session.io_binding()
        self._pools = []
        for layer in range(s.layers):
            for kind in "kv":
                pool = _aligned(shape, np.dtype(s.kv_dtype))
                self._pools.append(pool)
                name = f"{kind}_pool_{layer}"
                arguments = ("cpu", 0, pool.dtype.type, pool.shape, pool.ctypes.data)
                self._binding.bind_input(name, *arguments)
                self._binding.bind_output(f"{name}.out", *arguments)

    def step(self, batch: Batch) -> StepHandle:
        """Run the graph; returns when it is done."""
        # A step of prompt chunks wants no row; one is computed and thrown away, kernels don't like empty products.
        rows = batch.wanted_rows if len(batch.wanted_rows) else np.zeros(1, np.int64)
        inputs = {
            "input_ids": batch.token_ids,
            "position_ids": batch.positions,
            "query_starts": batch.query_starts,
            "kv_lengths": batch.kv_lengths,
            "block_table": batch.block_table,
            "logit_rows": rows,
        }
        # The binding keeps pointers, so the arrays must live until the run is over.
        held = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        for name, array in held.items():
            if name in self._names:
                self._binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        logits = self._buffer(len(rows))
        self._binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        self._session.run_with_iobinding(self._binding)
        return _Step(logits[: len(batch.wanted_rows)])

    @property
    def _names(self) -> set[str]:
        return {i.name for i in self._session.get_inputs()}

    def _buffer(self, rows: int) -> FloatArray:
        """f32[rows, V], reused from step to step."""
        wanted = rows * self._spec.vocab
        if self._logits.size < wanted:
            self._logits = np.empty(wanted, np.float32)
        return self._logits[:wanted].reshape(rows, self._spec.vocab)

    def logits(self, handle: StepHandle) -> FloatArray:
        """f32[W, V]; overwritten by the next step."""
        assert isinstance(handle, _Step)
        return handle.logits

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole blocks, in order."""
        for pool in self._pools:
            for source, target in pairs:
                pool[target] = pool[source]

    def export_blocks(self, ids: Sequence[int]) -> FloatArray:
        """f32[len(ids), L, 2, K, G, C]."""
        s = self._spec
        stacked = np.stack([pool[list(ids)] for pool in self._pools], axis=1).astype(np.float32)
        return stacked.reshape(len(ids), s.layers, 2, s.block_size, s.kv_heads, s.head_dim)

    def import_blocks(self, ids: Sequence[int], data: FloatArray) -> None:
        """The inverse of `export_blocks`."""
        flat = data.reshape(len(ids), len(self._pools), *data.shape[3:])
        for index, pool in enumerate(self._pools):
            pool[list(ids)] = flat[:, index]

    def close(self) -> None:
        """Drop session and pools."""
        self._binding = None
        self._session = None
        self._pools = []


class OnnxFunction:
    """A plain function."""

    def __init__(self, root: Path, threads: int) -> None:
        self._session = open_session(root, threads)

    def call(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Named arrays to named arrays."""
        names = [o.name for o in self._session.get_outputs()]
        found = self._session.run(names, {name: np.ascontiguousarray(value) for name, value in inputs.items()})
        return dict(zip(names, found, strict=True))


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Zeros whose first byte lies on a cache line."""
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)
