"""Faults of the runtime: the executor is right, and what the engine makes of it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from optcc.runtime.batching import BatchBuilder
from optcc.runtime.blocks import BlockPool
from optcc.runtime.engine import Engine
from optcc.runtime.executor import Batch, ModelSpec
from optcc.runtime.request import RequestState
from optcc.runtime.sampler import SamplingParams
from optcc.runtime.scheduler import Scheduler, Step
from tests.faults.fault import Fault
from tests.faults.plant import Planting


def _batches(change: Callable[[Batch, Step], Batch]) -> Callable[[Planting], None]:
    """The engine builds a step's arrays wrongly."""

    def plant(p: Planting) -> None:
        before = BatchBuilder.build

        def build(self: BatchBuilder, step: Step) -> tuple[Batch, list[RequestState]]:
            batch, ready = before(self, step)
            return change(batch, step), ready

        p.patch.setattr(BatchBuilder, "build", build)

    return plant


def _positions(batch: Batch, step: Step) -> Batch:
    starts = np.repeat(batch.query_starts[:-1], np.diff(batch.query_starts))
    restarted = np.arange(len(batch.token_ids)) - starts
    chunk = np.repeat(np.diff(batch.query_starts) > 1, np.diff(batch.query_starts))
    return replace(batch, positions=np.where(chunk, restarted, batch.positions).astype(np.int64))


def _first_row(batch: Batch, step: Step) -> Batch:
    """The first row of each request that is ready, not its last."""
    owner = np.searchsorted(batch.query_starts, batch.wanted_rows, side="right") - 1
    return replace(batch, wanted_rows=batch.query_starts[:-1][owner].astype(np.int64))


def _short_length(batch: Batch, step: Step) -> Batch:
    """Lengths before the step in place of those after it, where that leaves one key at least."""
    counts = np.diff(batch.query_starts)
    return replace(batch, kv_lengths=np.maximum(batch.kv_lengths - 1, counts).astype(np.int32))


def _shared_block(p: Planting) -> None:
    """A block that is given to two requests."""
    allocate = BlockPool.allocate

    def wrong(self: BlockPool, count: int, after: int | None = None) -> list[int] | None:
        held = [b for b in range(self.size) if self.references(b)]
        found = allocate(self, count, after)
        if found and held and len(found) > 1:
            self.release(found[-1:])
            self.share(held[:1])
            found[-1] = held[0]
        return found

    p.patch.setattr(BlockPool, "allocate", wrong)


def _stale_after_preemption(p: Planting) -> None:
    """A request that lost its blocks believes that its keys are still there."""

    def wrong(self: Scheduler, state: RequestState) -> None:
        self.pool.release(state.blocks)
        state.blocks = []
        state.computed = min(state.computed, max(0, state.length - 1))
        state.running = False

    def reserve(self: Scheduler, state: RequestState, tokens: int) -> bool:
        wanted = self.spec.blocks_for(state.computed + tokens) - len(state.blocks)
        fresh = self.pool.allocate(max(0, wanted))
        state.blocks.extend(fresh or ())
        return fresh is not None

    p.patch.setattr(Scheduler, "_free", wrong)
    p.patch.setattr(Scheduler, "_reserve", reserve)


def _floor_blocks(p: Planting) -> None:
    """One block too few when a request ends inside one."""
    p.patch.setattr(ModelSpec, "blocks_for", lambda self, tokens: max(1, tokens // self.block_size))


def _no_end(p: Planting) -> None:
    """End tokens are ignored."""
    submit = Engine._submit

    def wrong(self: Engine, request: Any, mailbox: Any) -> str:
        name = submit(self, request, mailbox)
        self._entries[name].state.eos = frozenset()
        return name

    p.patch.setattr(Engine, "_submit", wrong)


def _late_end(p: Planting) -> None:
    """An answer goes on for one token behind its end token."""
    append = Engine._append

    def wrong(self: Engine, entry: Any, token: int, now: float) -> Any:
        ends, entry.state.eos = (
            entry.state.eos,
            frozenset(
                entry.state.eos
                if entry.state.generated and entry.state.generated[-1] in entry.state.eos
                else ()
            ),
        )
        if entry.state.generated and entry.state.generated[-1] in ends:
            entry.state.eos = frozenset({token})
        try:
            return append(self, entry, token, now)
        finally:
            entry.state.eos = ends

    p.patch.setattr(Engine, "_append", wrong)


def _chosen(change: Callable[[list[int]], list[int]]) -> Callable[[Planting], None]:
    """Tokens that are given to the wrong requests."""

    def plant(p: Planting) -> None:
        run = Engine._run

        def wrong(self: Engine, step: Step) -> Any:
            found = run(self, step)
            tokens = change([token for _, token in found])
            return [(state, token) for (state, _), token in zip(found, tokens, strict=True)]

        p.patch.setattr(Engine, "_run", wrong)

    return plant


def _second_best(p: Planting) -> None:
    """The sampler takes the second best token now and then."""
    from optcc.backends.onnxruntime.executor import OnnxExecutor

    before = OnnxExecutor.sample

    def wrong(self: OnnxExecutor, handle: Any, params: Any, positions: Any) -> list[int]:
        tokens = before(self, handle, params, positions)
        rows = self.logits(handle)
        return [
            int(np.argsort(rows[i])[-2]) if position % 13 == 0 else token
            for i, (token, position) in enumerate(zip(tokens, positions, strict=True))
        ]

    p.patch.setattr(OnnxExecutor, "sample", wrong)


def _sampling(change: Callable[[SamplingParams], SamplingParams]) -> Callable[[Planting], None]:
    """The sampler reads other parameters than it was given."""

    def plant(p: Planting) -> None:
        from optcc.backends.onnxruntime.executor import OnnxExecutor

        before = OnnxExecutor.sample

        def wrong(self: OnnxExecutor, handle: Any, params: Any, positions: Any) -> list[int]:
            return before(self, handle, [c if c.greedy else change(c) for c in params], positions)

        p.patch.setattr(OnnxExecutor, "sample", wrong)

    return plant


def _forgets_token(p: Planting) -> None:
    """A request that starts again after preemption has lost its last token."""
    preempt = Scheduler._preempt

    def wrong(self: Scheduler, state: RequestState) -> None:
        preempt(self, state)
        if state.generated_count > 1:
            state.tokens[-1] = state.tokens[-2]

    p.patch.setattr(Scheduler, "_preempt", wrong)


FAULTS = (
    Fault("positions restart in every chunk", "runtime", _batches(_positions), "gpt2"),
    Fault("logits of a request's first row", "runtime", _batches(_first_row)),
    Fault("lengths of before the step", "runtime", _batches(_short_length)),
    Fault("a block given to two requests", "runtime", _shared_block),
    Fault("stale keys after preemption", "runtime", _stale_after_preemption),
    Fault("a token lost at preemption", "runtime", _forgets_token),
    Fault("one block too few", "runtime", _floor_blocks),
    Fault("end token ignored", "runtime", _no_end),
    Fault("one token behind the end", "runtime", _late_end),
    Fault("tokens given to the wrong request", "runtime", _chosen(lambda tokens: tokens[1:] + tokens[:1])),
    Fault("second best token now and then", "runtime", _second_best),
    Fault("temperature ignored", "runtime", _sampling(lambda c: replace(c, temperature=1.0))),
    Fault("top-k keeps one more", "runtime", _sampling(lambda c: replace(c, top_k=c.top_k and c.top_k + 1))),
    Fault(
        "top-p ignored behind top-k",
        "runtime",
        _sampling(lambda c: replace(c, top_p=1.0 if c.top_k else c.top_p)),
    ),
    Fault("one seed for all requests", "runtime", _sampling(lambda c: replace(c, seed=0))),
)
