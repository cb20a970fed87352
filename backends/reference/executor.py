"""The interpreter behind the runtime's contracts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from optcc.backends.reference.weights import open_weights
from optcc.ir import ops  # noqa: F401 - registers the operators the text names
from optcc.ir.formats import FORMATS, find_format
from optcc.ir.interpret import Calls, interpret
from optcc.ir.module import Module
from optcc.ir.parse import parse_module
from optcc.runtime.executor import Array, Batch, FloatArray, ModelSpec, StepHandle
from optcc.runtime.pools import pool_kinds, requantize
from optcc.runtime.sampler import SamplingParams, sample


def open_module(root: Path) -> Module:
    """An artifact's module over its mapped weights."""
    return parse_module((root / "model.ir").read_text(), open_weights(root / "weights.safetensors"))


def _torch_type(name: str) -> torch.dtype:
    """Element type of a pool by its name in a spec."""
    if name in FORMATS:
        return find_format(name).storage
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)
    return found


class ReferenceExecutor:
    """A decoder, interpreted. Pools are tensors [N, K, G, C], one pair per layer, and one of scales if quantized.

    Args:
        module: a decoder with a paged KV cache.
        spec: the manifest's `spec`.
        calls: what to call for some nodes in place of what they say.
        plain: keep keys and values unrounded, in float32, whatever the module's pools are; `calls` then leave out
            their quantization.
    """

    def __init__(
        self, module: Module, spec: Mapping[str, Any], *, calls: Calls | None = None, plain: bool = False
    ) -> None:
        self._spec = ModelSpec.from_json(spec)
        self._module, self._calls, self._plain = module, calls, plain
        self._pools: dict[str, torch.Tensor] = {}

    @property
    def spec(self) -> ModelSpec:
        """What is being served."""
        return self._spec

    @property
    def block_bytes(self) -> int:
        """Bytes of one block over all layers, keys and values with their scales."""
        return self._spec.block_bytes

    def bind(self, blocks: int) -> None:
        """Allocate zeroed pools."""
        s = self._spec
        self._pools = {
            f"{pool.name}_{layer}": torch.zeros(
                (blocks, s.block_size, s.kv_heads, pool.channels),
                dtype=torch.float32 if self._plain else _torch_type(pool.dtype),
            )
            for pool in pool_kinds(s)
            for layer in range(s.layers)
        }

    def step(self, batch: Batch) -> StepHandle:
        """Run the graph on the batch; the pools are changed in place."""
        arrays = {
            "input_ids": batch.token_ids,
            "position_ids": batch.positions,
            "query_starts": batch.query_starts,
            "kv_lengths": batch.kv_lengths,
            "block_table": batch.block_table,
            "logit_rows": batch.wanted_rows,
        }
        inputs = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
        return interpret(self._module, {**inputs, **self._pools}, calls=self._calls)["logits"]

    def logits(self, handle: StepHandle) -> FloatArray:
        """f32[W, V]."""
        assert isinstance(handle, torch.Tensor)
        rows: FloatArray = handle.float().numpy()
        return rows

    def sample(
        self, handle: StepHandle, params: Sequence[SamplingParams], positions: Sequence[int]
    ) -> list[int]:
        """A token for each row."""
        return sample(self.logits(handle), params, positions)

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole blocks, in order."""
        for pool in self._pools.values():
            for source, target in pairs:
                pool[target] = pool[source]

    def export_blocks(self, ids: Sequence[int]) -> FloatArray:
        """f32[len(ids), L, 2, K, G, C]."""
        picked = []
        for layer, kind in itertools.product(range(self._spec.layers), "kv"):
            values = self._pools[f"{kind}_pool_{layer}"][list(ids)].float()
            if self._spec.kv_scale:
                values = values * self._pools[f"{kind}_scale_pool_{layer}"][list(ids)].float()
            picked.append(values)
        blocks: FloatArray = torch.stack(picked, dim=1).unflatten(1, (self._spec.layers, 2)).numpy()
        return blocks

    def import_blocks(self, ids: Sequence[int], data: FloatArray) -> None:
        """The inverse of `export_blocks`."""
        where = list(ids)
        for layer in range(self._spec.layers):
            for side, kind in enumerate("kv"):
                pool, values = self._pools[f"{kind}_pool_{layer}"], np.ascontiguousarray(data[:, layer, side])
                if self._spec.kv_scale:
                    values, scale = requantize(values, self._spec.kv_dtype, self._spec.kv_scale, self._round)
                    self._pools[f"{kind}_scale_pool_{layer}"][where] = torch.from_numpy(scale)
                pool[where] = torch.from_numpy(values).to(pool.dtype)

    def _round(self, values: FloatArray) -> FloatArray:
        levels: FloatArray = find_format(self._spec.kv_dtype).round(torch.from_numpy(values)).numpy()
        return levels

    def close(self) -> None:
        """Drop the pools."""
        self._pools = {}


class ReferenceFunction:
    """A plain function, interpreted."""

    def __init__(self, root: Path, threads: int) -> None:
        self._module = open_module(root)
        if threads:
            torch.set_num_threads(threads)

    def call(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Named arrays to named arrays."""
        tensors = {name: torch.from_numpy(np.asarray(value, order="C")) for name, value in inputs.items()}
        return {name: value.numpy() for name, value in interpret(self._module, tensors).items()}
