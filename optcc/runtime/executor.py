"""The border between the engine and the backends: one step contract for all of them.

A step is {request: number of tokens}. Prefill, a chunk of a prompt, a prefix-cache hit, decode and scoring a
draft are only different numbers. The engine owns block ids; an executor owns the KV tensors, their type and
their layout.

Letters in shapes: T tokens in a step (all requests flattened), R requests, W wanted rows, N pool blocks, K
tokens per block, M columns of the block table, L layers, G KV heads, C head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from operator import lt
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from optcc.errors import IncompatibleArtifact

if TYPE_CHECKING:
    from optcc.runtime.sampler import SamplingParams

Array: TypeAlias = npt.NDArray[Any]
FloatArray: TypeAlias = npt.NDArray[np.float32]
Int32Array: TypeAlias = npt.NDArray[np.int32]
Int64Array: TypeAlias = npt.NDArray[np.int64]

StepHandle: TypeAlias = object
"""What `Executor.step` returns: opaque to the engine, understood by the executor that made it, good until its
next step. It is there so that sampling can stay on a device: nothing has to be copied out until somebody
asks."""


def _element_bytes(kind: str) -> int:
    """Bytes of one value of a pool; numpy has neither bfloat16 nor e4m3."""
    return {"bfloat16": 2, "e4m3": 1}.get(kind) or np.dtype(kind).itemsize


@dataclass(frozen=True)
class ModelSpec:
    """What the engine must know of a decoder.

    Attributes:
        layers: attention layers, L.
        kv_heads: KV heads, G.
        head_dim: channels of a head, C.
        vocab: columns of the logits, V.
        block_size: tokens in a KV block, K.
        max_context: most tokens a request may hold, prompt and answer together.
        eos_token_ids: every id that ends an answer.
        kv_dtype: element type of the KV pools: `float32`, `float16`, `bfloat16`, or quantized `int8` or `e4m3`.
        kv_scale: type of the scales of quantized ones, one per token and KV head; empty when they are not quantized.
    """

    layers: int
    kv_heads: int
    head_dim: int
    vocab: int
    block_size: int
    max_context: int
    eos_token_ids: tuple[int, ...]
    kv_dtype: str
    kv_scale: str = ""

    def __post_init__(self) -> None:
        for name in ("layers", "kv_heads", "head_dim", "vocab", "block_size", "max_context"):
            if getattr(self, name) < 1:
                raise ValueError(f"ModelSpec.{name} must be at least 1, not {getattr(self, name)}")

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold `tokens` tokens of one request."""
        return -(-tokens // self.block_size)

    @property
    def block_bytes(self) -> int:
        """Bytes of one KV block over all layers, keys and values with their scales."""
        head = self.head_dim * _element_bytes(self.kv_dtype)
        if self.kv_scale:
            head += _element_bytes(self.kv_scale)
        return self.layers * 2 * self.block_size * self.kv_heads * head

    def to_json(self) -> dict[str, object]:
        """Plain data for the manifest; `from_json` reads it back."""
        return {**asdict(self), "eos_token_ids": list(self.eos_token_ids)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelSpec:
        """Read what `to_json` wrote. Raises IncompatibleArtifact (E603) for missing or unknown fields."""
        names = {field.name for field in fields(cls)}
        if set(data) != names:
            raise IncompatibleArtifact(
                f"the model spec has fields {sorted(data)}, this version of optcc reads {sorted(names)}",
                where="manifest.json: spec",
                hint="rebuild the artifact with this version of optcc",
            )
        values = {name: data[name] for name in names - {"eos_token_ids", "kv_dtype", "kv_scale"}}
        eos = data["eos_token_ids"]
        if not isinstance(eos, list) or not all(type(value) is int for value in (*values.values(), *eos)):
            raise IncompatibleArtifact(
                "a field of the model spec has the wrong type", where="manifest.json: spec"
            )
        return cls(
            **values,
            eos_token_ids=tuple(eos),
            kv_dtype=str(data["kv_dtype"]),
            kv_scale=str(data["kv_scale"]),
        )


@dataclass(frozen=True, eq=False)
class Batch:
    """The inputs of one step. Request r owns rows query_starts[r] up to query_starts[r+1].

    Attributes:
        token_ids: i64[T].
        positions: i64[T], place of each token in its own request, counted from 0.
        query_starts: i32[R+1], strictly rising from 0 to T: no request is empty.
        kv_lengths: i32[R], tokens of the request in the pool *after* this step.
        block_table: i32[R, M], pool blocks of each request in order; unused columns hold 0 and must not be
            read.
        wanted_rows: i64[W], the rows whose logits are wanted, rising. W may be 0 (a step of prompt chunks
            only).

    Raises ValueError when the arrays disagree: that is a bug of the caller, never of a user.
    """

    token_ids: Int64Array
    positions: Int64Array
    query_starts: Int32Array
    kv_lengths: Int32Array
    block_table: Int32Array
    wanted_rows: Int64Array

    def __post_init__(self) -> None:
        for name, dtype, rank in _BATCH_TYPES:
            array = getattr(self, name)
            if (array.dtype is not dtype and array.dtype != dtype) or array.ndim != rank:
                raise ValueError(
                    f"Batch.{name} is {array.dtype} of rank {array.ndim}, not {dtype} of rank {rank}"
                )
        # As lists: of a few numbers each, which numpy takes ten times as long for, in every step.
        starts, lengths, rows = (
            array.tolist() for array in (self.query_starts, self.kv_lengths, self.wanted_rows)
        )
        tokens, requests = len(self.token_ids), len(lengths)
        if tokens == 0 or requests == 0:
            raise ValueError("a Batch needs at least one token")
        if len(self.positions) != tokens:
            raise ValueError(f"Batch.positions has {len(self.positions)} rows for {tokens} tokens")
        if len(starts) != requests + 1 or starts[0] != 0 or starts[-1] != tokens:
            raise ValueError(f"Batch.query_starts {starts} doesn't span {tokens} tokens, {requests} requests")
        if not _rises(starts):
            raise ValueError(f"Batch.query_starts {starts} doesn't rise")
        if any(length < end - start for length, start, end in zip(lengths, starts, starts[1:])):
            raise ValueError(
                "Batch.kv_lengths counts the tokens of this step too, and is smaller than they are"
            )
        if len(self.block_table) != requests:
            raise ValueError(f"Batch.block_table has {len(self.block_table)} rows for {requests} requests")
        if rows and (rows[0] < 0 or rows[-1] >= tokens or not _rises(rows)):
            raise ValueError(f"Batch.wanted_rows {rows} must rise within 0..{tokens - 1}")


def _rises(numbers: Sequence[int]) -> bool:
    return all(map(lt, numbers, islice(numbers, 1, None)))


_BATCH_TYPES = (
    ("token_ids", np.dtype(np.int64), 1),
    ("positions", np.dtype(np.int64), 1),
    ("query_starts", np.dtype(np.int32), 1),
    ("kv_lengths", np.dtype(np.int32), 1),
    ("block_table", np.dtype(np.int32), 2),
    ("wanted_rows", np.dtype(np.int64), 1),
)


class Executor(Protocol):
    """The one thing a backend implements for serving a decoder.

    Every row of the logits must depend on its own request alone, whatever else is in the batch and whichever
    pages hold its keys. A step writes the new keys and values first and attends afterwards; running the same
    step twice leaves the same pool (the engine repeats a step that raised).
    """

    @property
    def spec(self) -> ModelSpec:
        """What is being served."""
        ...

    @property
    def block_bytes(self) -> int:
        """Bytes of one block over all layers, keys and values with their scales."""
        ...

    def bind(self, blocks: int) -> None:
        """Allocate the KV pool, zeroed. Binding again replaces it."""
        ...

    def step(self, batch: Batch) -> StepHandle:
        """Run one batch. May return before the device is done."""
        ...

    def logits(self, handle: StepHandle) -> FloatArray:
        """f32[W, V]: one row per wanted row of that step, in the same order."""
        ...

    def sample(
        self, handle: StepHandle, params: Sequence[SamplingParams], positions: Sequence[int]
    ) -> list[int]:
        """A token for each wanted row of that step, where the logits are: what `optcc.runtime.sampler.sample` gives.

        Raises BadLogits.
        """
        ...

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole blocks inside the pool, (from, to) in order."""
        ...

    def export_blocks(self, ids: Sequence[int]) -> FloatArray:
        """The named blocks in the canonical form f32[len(ids), L, 2, K, G, C] (2: keys, values).

        Whatever type the pool has: blocks that go out and come in again hold the same keys and values, bit for bit.
        """
        ...

    def import_blocks(self, ids: Sequence[int], data: FloatArray) -> None:
        """The inverse of `export_blocks`."""
        ...

    def close(self) -> None:
        """Free everything. Closing twice is allowed."""
        ...


class CallExecutor(Protocol):
    """A model without a KV cache: an encoder, a vision model, any plain function."""

    def call(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once: named inputs to named outputs."""
        ...
