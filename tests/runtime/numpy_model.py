"""A real two-layer attention model in numpy, naive and paged: the oracle and the executor of the runtime's
tests.

Every row is computed on its own with products of fixed shapes, so logits are bit-identical whatever the
batch. Its weights are large enough that the greedy text wanders and depends on far-away tokens (see
test_model.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optcc.runtime import Batch, ModelSpec, SamplingParams, StepHandle
from optcc.runtime.sampler import sample

LAYERS, HEADS, WIDTH, VOCAB, CONTEXT = 2, 2, 4, 48, 96


class TinyModel:
    """Weights, and the parts that both ways of running share. D = HEADS * WIDTH."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        width = HEADS * WIDTH
        self.embedding = rng.normal(size=(VOCAB, width))
        self.place = rng.normal(size=(CONTEXT, width)) * 0.7
        self.qkv = rng.normal(size=(LAYERS, 3, width, width)) / width**0.5 * 1.5
        self.out = rng.normal(size=(LAYERS, width, width)) / width**0.5 * 2.0
        self.head = rng.normal(size=(width, VOCAB))

    def project(self, layer: int, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """q, k, v [HEADS, WIDTH] of one row [D]."""
        normal = x / np.sqrt((x * x).mean() + 1e-6)
        q, k, v = (normal @ self.qkv[layer, part] for part in range(3))
        return q.reshape(HEADS, WIDTH), k.reshape(HEADS, WIDTH), v.reshape(HEADS, WIDTH)

    def attend(
        self, layer: int, x: np.ndarray, q: np.ndarray, keys: np.ndarray, values: np.ndarray
    ) -> np.ndarray:
        """The layer's output row [D]; keys and values [S, HEADS, WIDTH] of everything visible."""
        mixed = np.empty_like(q)
        for head in range(HEADS):
            scores = np.ascontiguousarray(keys[:, head]) @ q[head] / WIDTH**0.5
            weights = np.exp(scores - scores.max())
            mixed[head] = (weights / weights.sum()) @ np.ascontiguousarray(values[:, head])
        return x + np.tanh(mixed.reshape(-1) @ self.out[layer])

    def logits(self, x: np.ndarray) -> np.ndarray:
        """f32[V] of one final row [D]."""
        return (x @ self.head).astype(np.float32)

    def forward(self, tokens: Sequence[int]) -> np.ndarray:
        """f32[S, V], no cache and no pages: what everything else is compared with."""
        rows = self.embedding[list(tokens)] + self.place[: len(tokens)]
        for layer in range(LAYERS):
            q, k, v = (np.stack(part) for part in zip(*(self.project(layer, x) for x in rows), strict=True))
            rows = np.stack([self.attend(layer, x, q[i], k[: i + 1], v[: i + 1]) for i, x in enumerate(rows)])
        return np.stack([self.logits(x) for x in rows])

    def greedy(self, prompt: Sequence[int], count: int) -> tuple[int, ...]:
        """`count` greedy tokens by running the whole text again for each."""
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(int(self.forward(tokens)[-1].argmax()))
        return tuple(tokens[len(prompt) :])


class DeviceHiccup(RuntimeError):
    """A step that fails after it has written to the pool."""


@dataclass(frozen=True)
class Rows:
    """The handle: final rows [W, D] of the wanted tokens."""

    rows: np.ndarray


class NumpyExecutor:
    """The model over a paged pool [N, L, 2, K, G, C]. Unwritten slots hold NaN: reading one shows."""

    def __init__(
        self,
        model: TinyModel,
        *,
        block_size: int = 4,
        eos: tuple[int, ...] = (),
        page_seed: int | None = None,
    ) -> None:
        self.spec = ModelSpec(LAYERS, HEADS, WIDTH, VOCAB, block_size, CONTEXT, eos, "float64")
        self.model = model
        self.page_seed = page_seed
        self.batches: list[Batch] = []
        self.fail_next = False

    @property
    def block_bytes(self) -> int:
        return 8 * LAYERS * 2 * self.spec.block_size * HEADS * WIDTH

    def bind(self, blocks: int) -> None:
        self.pool = np.full((blocks, LAYERS, 2, self.spec.block_size, HEADS, WIDTH), np.nan)
        # With a page seed, block ids land on shuffled places of the pool: results may not depend on where.
        self.page = np.arange(blocks)
        if self.page_seed is not None:
            np.random.default_rng(self.page_seed).shuffle(self.page)

    def step(self, batch: Batch) -> StepHandle:
        self.batches.append(batch)
        size = self.spec.block_size
        out = np.empty((len(batch.token_ids), HEADS * WIDTH))
        for r, end in enumerate(batch.kv_lengths.tolist()):
            first, last = batch.query_starts[r : r + 2].tolist()
            places = range(end - (last - first), end)
            assert batch.positions[first:last].tolist() == list(places)
            pages = self.page[batch.block_table[r, : -(-end // size)]]
            rows = self.model.embedding[batch.token_ids[first:last]] + self.model.place[list(places)]
            for layer in range(LAYERS):
                queries = []
                for place, x in zip(places, rows, strict=True):
                    q, k, v = self.model.project(layer, x)
                    queries.append(q)
                    self.pool[pages[place // size], layer, :, place % size] = (k, v)
                # [pages, 2, K, G, C] -> [S, G, C]
                keys, values = self.pool[pages, layer].swapaxes(0, 1).reshape(2, -1, HEADS, WIDTH)[:, :end]
                rows = np.stack(
                    [
                        self.model.attend(layer, x, q, keys[: place + 1], values[: place + 1])
                        for place, x, q in zip(places, rows, queries, strict=True)
                    ]
                )
            out[first:last] = rows
        if self.fail_next:
            self.fail_next = False
            raise DeviceHiccup
        return Rows(out[batch.wanted_rows])

    def logits(self, handle: StepHandle) -> np.ndarray:
        assert isinstance(handle, Rows)
        assert len(handle.rows), "nobody asks for the logits of no row"
        return np.stack([self.model.logits(x) for x in handle.rows])

    def sample(
        self, handle: StepHandle, params: Sequence[SamplingParams], positions: Sequence[int]
    ) -> list[int]:
        """A token for each row."""
        return sample(self.logits(handle), params, positions)

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        for source, target in pairs:
            self.pool[self.page[target]] = self.pool[self.page[source]]

    def export_blocks(self, ids: Sequence[int]) -> np.ndarray:
        return self.pool[self.page[list(ids)]].astype(np.float32)

    def import_blocks(self, ids: Sequence[int], data: np.ndarray) -> None:
        self.pool[self.page[list(ids)]] = data

    def close(self) -> None:
        self.pool = np.empty(0)
