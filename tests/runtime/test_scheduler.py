"""The scheduler alone, driven by a made-up model (every step succeeds), mostly at a full pool."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optcc.errors import PoolTooSmall, PromptTooLong
from optcc.runtime import BlockPool, Limits, ModelSpec, PoolCorrupt, Request, StopConditions
from optcc.runtime.batching import BatchBuilder
from optcc.runtime.blocks import RUN
from optcc.runtime.executor import Batch
from optcc.runtime.request import RequestState
from optcc.runtime.scheduler import Scheduler, Step


def make(
    blocks: int, *, block_size: int = 4, tokens: int = 8, requests: int = 4, context: int = 64
) -> Scheduler:
    spec = ModelSpec(1, 1, 1, 100, block_size, context, (), "float32")
    return Scheduler(spec, BlockPool(blocks), Limits(tokens, requests))


def ask(scheduler: Scheduler, arrival: int, prompt: int, generate: int) -> RequestState:
    request = Request(tuple(range(prompt)), stop=StopConditions(generate), id=str(arrival))
    state = RequestState(request, arrival, frozenset())
    scheduler.submit(state)
    return state


def arrays(batch: Batch) -> list[list[int]]:
    return [getattr(batch, field.name).tolist() for field in fields(batch)]


def play(scheduler: Scheduler, builder: BatchBuilder | None = None) -> Step:
    """One whole step with checks of all it promises; requests end when they have all their tokens.

    `builder`: of the steps before.
    """
    tables = {state: list(state.blocks) for state in scheduler.running}
    step = scheduler.schedule()
    scheduler.check()
    assert 0 < sum(step.values()) <= scheduler.limits.max_step_tokens
    assert len(scheduler.running) <= scheduler.limits.max_requests
    for state, tokens in step.items():
        assert state.running
        assert 1 <= tokens <= state.remaining
        assert state.blocks[: len(tables.get(state, []))] == tables.get(state, []), "tables are append-only"
        assert len(state.blocks) == scheduler.spec.blocks_for(state.computed + tokens), "no block too many"
    kinds = [state.decoding for state in step]
    assert kinds == sorted(kinds, reverse=True), "decoding requests come first"
    batch, ready = BatchBuilder().build(step)
    assert len(batch.wanted_rows) == len(ready)
    assert ready == [state for state, tokens in step.items() if tokens == state.remaining]
    if builder is not None:
        assert arrays(builder.build(step)[0]) == arrays(batch), (
            "what is kept from step to step changes nothing"
        )
    scheduler.commit(step)
    for state in ready:
        state.tokens.append(7)
        if state.generated_count == state.request.stop.max_tokens:
            scheduler.finish(state, "length")
    scheduler.check()
    return step


def sizes(step: Step) -> dict[str, int]:
    return {state.id: tokens for state, tokens in step.items()}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    asked=st.lists(
        st.tuples(st.integers(1, 20), st.integers(1, 12), st.integers(0, 6)), min_size=1, max_size=7
    ),
    spare=st.integers(0, 4),
    block_size=st.sampled_from([1, 3, 4]),
    tokens=st.integers(1, 12),
    requests=st.integers(1, 5),
)
def test_everything_ends_at_a_full_pool(
    asked: list[tuple[int, int, int]], spare: int, block_size: int, tokens: int, requests: int
) -> None:
    """The pool holds the largest request and little more: all are served, and none keeps a block."""
    largest = max(-(-(prompt + generate - 1) // block_size) for prompt, generate, _ in asked)
    scheduler = make(largest + spare, block_size=block_size, tokens=tokens, requests=requests)
    states: list[RequestState] = []
    builder = BatchBuilder()
    steps = 0
    todo = [(arrival, *rest) for arrival, rest in enumerate(asked)]
    while todo or scheduler.running or scheduler.waiting:
        while todo and (todo[0][3] <= 0 or not (scheduler.running or scheduler.waiting)):
            arrival, prompt, generate, _ = todo.pop(0)
            states.append(ask(scheduler, arrival, prompt, generate))
        todo = [(*head, delay - 1) for *head, delay in todo]  # type: ignore[misc]
        oldest = min((s for s in states if s.finish is None), key=lambda s: s.arrival)
        preempted = oldest.preemptions
        counts = {state: state.preemptions for state in states}
        step = play(scheduler, builder)
        assert not any(state.preemptions > counts[state] for state in step), (
            "preempted and started in one step"
        )
        # Only requests that were already decoding in the same step can hold the oldest one up.
        assert oldest.preemptions == preempted or any(state.decoding for state in step)
        steps += 1
        assert steps < 3000, "livelock"
    assert all(state.finish == "length" for state in states)
    assert scheduler.pool.free_count == scheduler.pool.size


def test_long_prompts_are_chunked_and_decodes_keep_going() -> None:
    scheduler = make(20, tokens=8)
    ask(scheduler, 0, 3, 5)
    assert sizes(play(scheduler)) == {"0": 3}
    ask(scheduler, 1, 17, 1)
    assert sizes(play(scheduler)) == {"0": 1, "1": 7}
    assert sizes(play(scheduler)) == {"0": 1, "1": 7}
    assert sizes(play(scheduler)) == {"0": 1, "1": 3}
    assert sizes(play(scheduler)) == {"0": 1}


def test_only_last_rows_are_wanted() -> None:
    scheduler = make(20, tokens=8)
    ask(scheduler, 0, 3, 4)
    ask(scheduler, 1, 9, 4)
    step = scheduler.schedule()
    batch, _ = BatchBuilder().build(step)
    assert batch.query_starts.tolist() == [0, 3, 8]
    assert batch.positions.tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
    assert batch.kv_lengths.tolist() == [3, 5]
    assert batch.block_table.tolist() == [[0, 0], [RUN, RUN + 1]]
    assert batch.wanted_rows.tolist() == [2], "the second prompt isn't through: none of its rows is wanted"


def test_the_youngest_gives_way_and_comes_back() -> None:
    scheduler = make(4, tokens=16)
    old, young = ask(scheduler, 0, 8, 8), ask(scheduler, 1, 7, 8)
    assert sizes(play(scheduler)) == {"0": 8, "1": 7}
    assert sizes(play(scheduler)) == {"0": 1}, "block 3 of the old one is taken from the young one"
    assert (old.preemptions, young.preemptions) == (0, 1)
    assert young.computed == 0
    assert young.blocks == []
    assert young.generated == (7,)
    while young.finish is None:
        play(scheduler)
    assert old.finish == "length"
    assert young.generated_count == 8


def test_nobody_overtakes() -> None:
    scheduler = make(4, tokens=32)
    ask(scheduler, 0, 9, 2)
    ask(scheduler, 1, 9, 2)
    ask(scheduler, 2, 1, 1)
    assert sizes(play(scheduler)) == {"0": 9}, "one block is free and request 2 would fit, but 1 is first"


def test_a_prompt_starts_when_all_of_it_fits() -> None:
    scheduler = make(4, tokens=12)
    ask(scheduler, 0, 9, 2)
    ask(scheduler, 1, 8, 1)
    assert sizes(play(scheduler)) == {"0": 9}, (
        "a first chunk of request 1 would fit, the whole of it would not"
    )
    assert sizes(play(scheduler)) == {"0": 1}
    assert sizes(play(scheduler)) == {"1": 8}
    assert scheduler.preemptions == 0


def test_refusals_leave_nothing_behind() -> None:
    scheduler = make(4)
    with pytest.raises(PoolTooSmall, match="needs 5 KV blocks, the pool has 4"):
        ask(scheduler, 0, 10, 8)
    ask(scheduler, 1, 10, 7)  # the last token is never fed back: 16 slots do
    with pytest.raises(
        PromptTooLong, match="60 prompt tokens and 5 to generate exceed the context of 64"
    ) as caught:
        ask(scheduler, 2, 60, 5)
    assert "at most 4 tokens" in str(caught.value)
    assert [state.id for state in scheduler.waiting] == ["1"]


def test_an_uncommitted_step_is_scheduled_again() -> None:
    scheduler = make(4)
    ask(scheduler, 0, 6, 2)
    first = sizes(scheduler.schedule())
    assert sizes(scheduler.schedule()) == first
    scheduler.check()


def test_finish_anywhere_and_bad_limits() -> None:
    scheduler = make(4, requests=1)
    running, waiting = ask(scheduler, 0, 6, 2), ask(scheduler, 1, 6, 2)
    scheduler.schedule()
    scheduler.finish(waiting, "cancelled")
    scheduler.finish(running, "cancelled")
    assert scheduler.schedule() == {}
    assert scheduler.pool.free_count == 4
    with pytest.raises(ValueError, match="at least 1"):
        Limits(0, 1)


def test_check_finds_broken_states() -> None:
    scheduler = make(4)
    state = ask(scheduler, 0, 6, 2)
    state.computed = 1
    with pytest.raises(PoolCorrupt, match="waits"):
        scheduler.check()
    state.computed = 0
    scheduler.commit(scheduler.schedule())
    state.computed = 9
    with pytest.raises(PoolCorrupt, match="9 tokens in 2 blocks"):
        scheduler.check()
