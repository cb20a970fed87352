"""Who runs in the next step, with how many tokens, in which blocks.

First come, first served: nobody overtakes an older request that waits for blocks, and blocks are only ever
taken away from the youngest. In a step, requests that decode come first (one token each, so that running
answers keep flowing), then prompts fill what is left of the token budget in chunks.

When the pool is full the youngest running request that isn't in the step yet gives all its blocks back and
waits; its tokens are computed again later ("preemption by recompute"). Every call to `schedule` with work to
do returns a non-empty step, and a request is only accepted when the pool could hold all of it, so everything
that is accepted ends.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass
from typing import TypeAlias

from optcc.errors import PoolTooSmall, PromptTooLong
from optcc.runtime.blocks import BlockPool
from optcc.runtime.executor import ModelSpec
from optcc.runtime.faults import PoolCorrupt
from optcc.runtime.request import FinishReason, RequestState

Step: TypeAlias = dict[RequestState, int]
"""A step: how many tokens of each request, in batch order. They are the next ones after `computed`."""


@dataclass(frozen=True)
class Limits:
    """What one step may hold: `max_step_tokens` tokens (T) of at most `max_requests` requests (R)."""

    max_step_tokens: int = 512
    max_requests: int = 32

    def __post_init__(self) -> None:
        if self.max_step_tokens < 1 or self.max_requests < 1:
            raise ValueError(f"limits must be at least 1: {self}")


class Scheduler:
    """Decides steps and owns the block tables; knows neither tensors nor text.

    `submit`, then repeat: `schedule`, run the step, `commit` it, append the chosen tokens to their requests,
    `finish` those that are done. A step that was scheduled but never committed is simply scheduled again.
    """

    def __init__(self, spec: ModelSpec, pool: BlockPool, limits: Limits) -> None:
        self.spec = spec
        self.pool = pool
        self.limits = limits
        self.running: list[RequestState] = []  # both lists in order of arrival
        self.waiting: list[RequestState] = []
        self.preemptions = 0

    def submit(self, state: RequestState) -> None:
        """Queue a request. Raises PromptTooLong (E702) or PoolTooSmall (E701) if it can never be served."""
        stop = state.request.stop
        room = self.spec.max_context - state.prompt_length
        if stop.max_tokens > room:
            raise PromptTooLong(
                f"{state.prompt_length} prompt tokens and {stop.max_tokens} to generate exceed "
                f"the context of {self.spec.max_context}",
                hint=f"shorten the prompt or ask for at most {room} tokens"
                if room > 0
                else f"shorten the prompt to fewer than {self.spec.max_context} tokens",
            )
        needed = self.spec.blocks_for(state.most_cached)
        if needed > self.pool.size:
            raise PoolTooSmall(
                f"the request needs {needed} KV blocks, the pool has {self.pool.size}",
                hint=f"give the engine room for {needed * self.spec.block_size} tokens, or ask for fewer",
            )
        insort(self.waiting, state, key=_arrival)

    def schedule(self) -> Step:
        """The next step; empty only when there is nothing to do. Allocates the blocks that it needs."""
        step: Step = {}
        budget = self.limits.max_step_tokens
        decoding: list[RequestState] = []  # both by arrival
        others: list[RequestState] = []
        for state in self.running:
            (decoding if state.decoding else others).append(state)
        for state in decoding + others:
            if budget == 0:
                break
            tokens = min(state.remaining, budget)
            # A request that lost its blocks to an older one in this loop is no longer running.
            if state.running and self._grow(state, tokens, step):
                step[state] = tokens
                budget -= tokens
        # Whoever was preempted just now is first in line and needs more than is free: nobody bounces.
        self._admit(step, budget)
        return step

    def commit(self, step: Step) -> None:
        """The step has run: its keys and values are in the pool."""
        for state, tokens in step.items():
            state.computed += tokens

    def finish(self, state: RequestState, reason: FinishReason) -> None:
        """Take a request out, wherever it is, and free its blocks."""
        if state.running:
            self.running.remove(state)
            self._free(state)
        else:
            self.waiting.remove(state)
        state.finish = reason

    def check(self) -> None:
        """Raise PoolCorrupt unless pool and tables agree. For tests and debugging: walks everything."""
        self.pool.check(state.blocks for state in self.running)
        for state in self.waiting:
            if state.blocks or state.computed or state.running:
                raise PoolCorrupt(f"request {state.id} waits and still holds {state.blocks}")
        for state in self.running:
            if not state.running or self.spec.blocks_for(state.computed) > len(state.blocks):
                raise PoolCorrupt(
                    f"request {state.id} computed {state.computed} tokens in {len(state.blocks)} blocks"
                )
        for queue in (self.running, self.waiting):
            if queue != sorted(queue, key=_arrival):
                raise PoolCorrupt("a queue is out of order")

    def _grow(self, state: RequestState, tokens: int, step: Step) -> bool:
        """Give `state` the blocks for `tokens` more; False if it had to give up its own instead."""
        while True:
            if self._reserve(state, tokens):
                return True
            # Never empty: `state` itself is running and not in the step yet.
            victim = next(other for other in reversed(self.running) if other not in step)
            self._preempt(victim)
            if victim is state:
                return False

    def _admit(self, step: Step, budget: int) -> None:
        """Start waiting requests, oldest first, while the pool can hold all tokens each has so far."""
        # Budget is left, so every running request already has the blocks for all of its tokens so far.
        while self.waiting and budget > 0 and len(self.running) < self.limits.max_requests:
            state = self.waiting[0]
            tokens = min(state.remaining, budget)
            if self.spec.blocks_for(state.length) > self.pool.free_count or not self._reserve(state, tokens):
                return
            del self.waiting[0]
            state.running = True
            insort(self.running, state, key=_arrival)
            step[state] = tokens
            budget -= tokens

    def _reserve(self, state: RequestState, tokens: int) -> bool:
        """Append the blocks for `tokens` more tokens to the request's table, if the pool has them."""
        missing = self.spec.blocks_for(state.computed + tokens) - len(state.blocks)
        if missing <= 0:
            return True
        fresh = self.pool.allocate(missing, state.blocks[-1] if state.blocks else None)
        state.blocks.extend(fresh or ())
        return fresh is not None

    def _preempt(self, state: RequestState) -> None:
        self.running.remove(state)
        self._free(state)
        state.preemptions += 1
        self.preemptions += 1
        insort(self.waiting, state, key=_arrival)

    def _free(self, state: RequestState) -> None:
        self.pool.release(state.blocks)
        state.blocks = []
        state.computed = 0
        state.running = False


def _arrival(state: RequestState) -> int:
    return state.arrival
