"""Texts don't depend on how they were served: batch, chunks, blocks, pages, preemption, arrival."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optcc.errors import NotATextModel, PoolTooSmall, PromptTooLong
from optcc.runtime import (
    BadLogits,
    BadPrompt,
    Engine,
    FinishedEvent,
    Limits,
    Request,
    SamplingParams,
    StopConditions,
    TokenEvent,
)
from optcc.runtime.sampler import sample

from .numpy_model import DeviceHiccup, NumpyExecutor, TinyModel

Oracle = Callable[[tuple[int, ...], int], tuple[int, ...]]
SHORT = StopConditions(4)
PROMPTS: list[tuple[int, ...]] = [
    tuple(np.random.default_rng(i).integers(0, 48, size).tolist())
    for i, size in enumerate((1, 2, 5, 9, 16, 23))
]


def engine_of(model: TinyModel, *, blocks: int = 60, eos: tuple[int, ...] = (), **options: object) -> Engine:
    limits = Limits(int(options.pop("tokens", 16)), int(options.pop("requests", 4)))  # type: ignore[call-overload]
    executor = NumpyExecutor(model, eos=eos, **options)  # type: ignore[arg-type]
    return Engine(executor, blocks=blocks, limits=limits, debug=True)


def drain(engine: Engine) -> dict[str, FinishedEvent]:
    done: dict[str, FinishedEvent] = {}
    while engine.has_work:
        done |= {event.request_id: event for event in engine.step() if isinstance(event, FinishedEvent)}
    return done


def assert_clean(engine: Engine) -> None:
    engine.scheduler.check()
    assert engine.scheduler.pool.free_count == engine.scheduler.pool.size


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    asked=st.lists(
        st.tuples(st.integers(0, 5), st.integers(1, 14), st.integers(0, 5)), min_size=1, max_size=6
    ),
    block_size=st.sampled_from([1, 3, 4, 16]),
    spare=st.integers(0, 3),
    tokens=st.integers(1, 24),
    requests=st.integers(1, 4),
    page_seed=st.integers(0, 99),
    cancel=st.sets(st.integers(0, 5), max_size=2),
)
def test_greedy_text_is_a_function_of_the_prompt(
    model: TinyModel,
    oracle: Oracle,
    asked: list[tuple[int, int, int]],
    block_size: int,
    spare: int,
    tokens: int,
    requests: int,
    page_seed: int,
    cancel: set[int],
) -> None:
    """Every finished text is the oracle's, whatever else happens, at a pool that holds hardly one request."""
    need = max(-(-(len(PROMPTS[p]) + count - 1) // block_size) for p, count, _ in asked)
    engine = engine_of(
        model,
        blocks=need + spare,
        tokens=tokens,
        requests=requests,
        block_size=block_size,
        page_seed=page_seed,
    )
    done: dict[str, FinishedEvent] = {}
    for number, (which, count, wait) in enumerate(asked):
        engine.submit(Request(PROMPTS[which], stop=StopConditions(count), id=str(number)))
        for _ in range(wait):
            done |= {event.request_id: event for event in engine.step() if isinstance(event, FinishedEvent)}
        if number - 1 in cancel:
            engine.cancel(str(number - 1))
    done |= drain(engine)
    assert len(done) == len(asked)
    for number, (which, count, _) in enumerate(asked):
        event, expected = done[str(number)], oracle(PROMPTS[which], 14)[:count]
        if event.reason == "cancelled":
            assert number in cancel
            assert event.tokens == expected[: len(event.tokens)]
        else:
            assert event.reason == "length"
            assert event.tokens == expected
    assert_clean(engine)


def test_preemption_really_happens_and_changes_nothing(model: TinyModel, oracle: Oracle) -> None:
    engine = engine_of(model, blocks=10, tokens=24, page_seed=1)
    events = engine.generate(PROMPTS[2:], stop=StopConditions(14))
    assert sum(event.preemptions for event in events) == engine.scheduler.preemptions > 0
    assert [event.tokens for event in events] == [oracle(prompt, 14) for prompt in PROMPTS[2:]]
    assert engine.counters.generated_tokens == 4 * 14
    assert engine.counters.computed_tokens > sum(len(p) + 13 for p in PROMPTS[2:]), "some were computed again"


@pytest.mark.parametrize("options", [{"top_k": 12}, {"top_p": 0.9}, {}])
def test_sampled_text_is_a_function_of_prompt_and_seed(model: TinyModel, options: dict[str, float]) -> None:
    """Against sampling from the oracle's logits one request at a time, in two very different engines."""
    params = [SamplingParams(temperature=0.8, seed=seed, **options) for seed in range(len(PROMPTS))]  # type: ignore[arg-type]
    expected = []
    for prompt, choice in zip(PROMPTS, params, strict=True):
        tokens = list(prompt)
        for _ in range(10):
            tokens += sample(model.forward(tokens)[-1:], [choice], [len(tokens)])
        expected.append(tuple(tokens[len(prompt) :]))
    for engine, order in (
        (engine_of(model, tokens=64, requests=6), range(6)),
        (engine_of(model, blocks=9, tokens=5, requests=3), reversed(range(6))),
    ):
        for i in order:
            engine.submit(Request(PROMPTS[i], params[i], StopConditions(10), id=str(i)))
        done = drain(engine)
        assert [done[str(i)].tokens for i in range(6)] == expected
    assert engine.scheduler.preemptions > 0


def test_no_row_inside_a_prompt_is_wanted(model: TinyModel) -> None:
    engine = engine_of(model, tokens=5)
    engine.generate(PROMPTS, stop=StopConditions(3))
    executor = engine.executor
    assert isinstance(executor, NumpyExecutor)
    assert sum(len(batch.wanted_rows) for batch in executor.batches) == 3 * len(PROMPTS)
    for batch in executor.batches:
        assert set(batch.wanted_rows.tolist()) <= {int(end) - 1 for end in batch.query_starts[1:]}


def test_events_tell_the_whole_story(model: TinyModel, oracle: Oracle) -> None:
    ticks = iter(range(1000))
    engine = Engine(NumpyExecutor(model), blocks=40, clock=lambda: float(next(ticks)))
    name = engine.submit(Request(PROMPTS[3], stop=StopConditions(5)))
    events = []
    while engine.has_work:
        events += engine.step()
    *tokens, last = events
    assert all(isinstance(event, TokenEvent) and event.request_id == name for event in tokens)
    assert [event.token for event in tokens] == list(oracle(PROMPTS[3], 5)) == list(last.tokens)
    assert [event.index for event in tokens] == [0, 1, 2, 3, 4]
    assert (last.reason, last.prompt_tokens, last.text) == ("length", 9, "")
    assert last.timing.time_to_first_token == 1
    assert last.timing.inter_token == [1, 1, 1, 1]
    assert last.timing.total == 6
    assert last.timing.to_json() == {"tokens": 5, "time_to_first_token": 1, "inter_token_mean": 1, "total": 6}
    assert engine.step() == []


def test_end_of_sequence(model: TinyModel, oracle: Oracle) -> None:
    text = oracle(PROMPTS[4], 12)
    eos = text[6]
    expected = text[: text.index(eos) + 1]
    engine = engine_of(model, eos=(47, eos) if eos != 47 else (eos,))
    (own,) = engine.generate([PROMPTS[4]], stop=StopConditions(12))
    (ignored,) = engine.generate([PROMPTS[4]], stop=StopConditions(12, eos_token_ids=()))
    (given_,) = engine.generate([PROMPTS[4]], stop=StopConditions(12, eos_token_ids=(text[0],)))
    assert (own.tokens, own.reason) == (expected, "eos")
    assert (ignored.tokens, ignored.reason) == (text, "length")
    assert (given_.tokens, given_.reason) == (text[:1], "eos")


def test_streams_interleave_with_each_other_and_with_step(model: TinyModel, oracle: Oracle) -> None:
    engine = engine_of(model)
    first = engine.stream(Request(PROMPTS[1], stop=StopConditions(6)))
    second = engine.stream(Request(PROMPTS[2], stop=StopConditions(9)))
    engine.submit(Request(PROMPTS[3], stop=StopConditions(3), id="plain"))
    assert isinstance(next(second), TokenEvent)
    assert first.result().tokens == oracle(PROMPTS[1], 6)
    assert second.result().tokens == oracle(PROMPTS[2], 9)
    with pytest.raises(ValueError, match="is over"):
        second.result()
    assert engine.has_work, "the plain request's events wait for step"
    plain = engine.step()
    assert [type(event) for event in plain] == [TokenEvent] * 3 + [FinishedEvent]
    assert list(first) == []
    assert not engine.has_work


def test_closing_a_stream_cancels(model: TinyModel, oracle: Oracle) -> None:
    engine = engine_of(model)
    with engine.stream(Request(PROMPTS[4], stop=StopConditions(9), id="a")) as stream:
        next(stream)
    assert not engine.has_work
    assert list(stream) == []
    engine.stream(Request(PROMPTS[4], stop=SHORT, id="never read")).close()
    assert_clean(engine)
    # The id is free again, and an old stream closed late doesn't touch its new owner.
    old = engine.stream(Request(PROMPTS[0], stop=StopConditions(1), id="a"))
    drain(engine)
    fresh = engine.stream(Request(PROMPTS[1], stop=StopConditions(4), id="a"))
    old.close()
    stream.close()
    assert fresh.result().tokens == oracle(PROMPTS[1], 4)


def test_cancel(model: TinyModel) -> None:
    engine = engine_of(model, requests=1)
    running, waiting = (engine.submit(Request(p, stop=StopConditions(9))) for p in PROMPTS[3:5])
    engine.step()
    assert engine.cancel(waiting)
    assert engine.cancel(running)
    assert not engine.cancel(running)
    ends = engine.step()
    assert [(e.request_id, e.reason, len(e.tokens)) for e in ends if isinstance(e, FinishedEvent)] == [
        (waiting, "cancelled", 0),
        (running, "cancelled", 1),
    ]
    assert_clean(engine)


def test_a_failed_step_is_repeated(model: TinyModel, oracle: Oracle) -> None:
    engine = engine_of(model, blocks=9, tokens=6)
    executor = engine.executor
    assert isinstance(executor, NumpyExecutor)
    for prompt in PROMPTS[2:5]:
        engine.submit(Request(prompt, stop=StopConditions(8)))
    done: dict[str, FinishedEvent] = {}
    failures = 0
    for turn in range(200):
        executor.fail_next = turn % 3 == 1 and engine.has_work
        try:
            done |= {event.request_id: event for event in engine.step() if isinstance(event, FinishedEvent)}
        except DeviceHiccup:
            failures += 1
    assert failures > 5
    assert [done[f"r{i}"].tokens for i in range(3)] == [oracle(prompt, 8) for prompt in PROMPTS[2:5]]
    assert_clean(engine)


def test_broken_logits_are_not_a_text(model: TinyModel) -> None:
    broken = TinyModel()
    broken.head = broken.head * np.nan
    engine = engine_of(broken)
    with pytest.raises(BadLogits):
        engine.generate([PROMPTS[2]], stop=SHORT)
    assert_clean(engine)


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (Request((), stop=SHORT), BadPrompt),
        (Request((48,), stop=SHORT), BadPrompt),
        (Request((3, -1), stop=SHORT), BadPrompt),
        (Request(tuple([1] * 90), stop=StopConditions(7)), PromptTooLong),
        (Request(tuple([1] * 20), stop=StopConditions(30)), PoolTooSmall),
        (Request((1,), stop=StopConditions(4, strings=("x",))), NotATextModel),
        (Request((1,), stop=SHORT, id="taken"), ValueError),
    ],
)
def test_refusals_change_nothing(model: TinyModel, request_: Request, error: type[Exception]) -> None:
    engine = engine_of(model, blocks=12)
    engine.submit(Request((1, 2), stop=StopConditions(2), id="taken"))
    with pytest.raises(error):
        engine.submit(request_)
    assert set(drain(engine)) == {"taken"}
    assert_clean(engine)


def test_one_bad_prompt_takes_the_others_with_it(model: TinyModel) -> None:
    engine = engine_of(model)
    with pytest.raises(BadPrompt):
        engine.generate([(1, 2), (3, 48), (4,)], stop=SHORT)
    with pytest.raises(NotATextModel):
        engine.generate(["a text"], stop=SHORT)
    assert not engine.has_work
    assert_clean(engine)


def test_ids_are_unique(model: TinyModel) -> None:
    engine = engine_of(model)
    engine.submit(Request((1,), stop=SHORT, id="r1"))
    assert [engine.submit(Request((1,), stop=SHORT)) for _ in range(3)] == ["r2", "r3", "r4"]
