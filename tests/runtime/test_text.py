"""Stop strings in text that comes in pieces, and answers with text through the whole engine."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from optcc.runtime import (
    Engine,
    FinishedEvent,
    Request,
    SamplingParams,
    StopConditions,
    TokenEvent,
    Tokenizer,
)
from optcc.runtime.text import StopStrings

from .numpy_model import VOCAB, NumpyExecutor, TinyModel


def run(strings: tuple[str, ...], pieces: list[str]) -> tuple[str, bool, list[str]]:
    stops, out = StopStrings(strings), []
    for piece in pieces:
        text, stopped = stops.push(piece)
        out.append(text)
        if stopped:
            return "".join(out), True, out
    return "".join(out) + stops.flush(), False, out


def expected(strings: tuple[str, ...], text: str) -> tuple[str, bool]:
    """Letter by letter: the first end of a stop string, and of those the longest."""
    for end in range(1, len(text) + 1):
        ends = [s for s in strings if text[:end].endswith(s)]
        if ends:
            return text[: end - max(map(len, ends))], True
    return text, False


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    strings=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    pieces=st.lists(st.text("ab.", max_size=4), max_size=8),
)
def test_stop_strings_wherever_the_cuts_are(strings: list[str], pieces: list[str]) -> None:
    text, stopped, _ = run(tuple(strings), pieces)
    assert (text, stopped) == expected(tuple(strings), "".join(pieces))


def test_only_possible_beginnings_are_held_back() -> None:
    assert run(("\n\nQ:",), ["A: 4\n", "\nB", "\n\n", "Q", ": 5"]) == (
        "A: 4\n\nB",
        True,
        ["A: 4", "\n\nB", "", "", ""],
    )
    assert run(("stop",), ["a s", "to"]) == ("a sto", False, ["a ", ""])


def test_engine_text(model: TinyModel, small_tokenizer: Tokenizer) -> None:
    """Text of events = text of the whole answer; a stop string ends it, wherever the tokens are cut."""
    assert small_tokenizer.vocab_size <= VOCAB
    engine = Engine(NumpyExecutor(model, eos=(3,)), blocks=60, tokenizer=small_tokenizer, debug=True)
    sampling = [SamplingParams(temperature=1.5, seed=seed) for seed in range(30)]

    def answer(params: SamplingParams, strings: tuple[str, ...]) -> FinishedEvent:
        stop = StopConditions(20, (), strings)
        *tokens, last = engine.stream(Request(tuple(engine.encode("abc")), params, stop))
        assert isinstance(last, FinishedEvent)
        pieces = [event.text for event in tokens if isinstance(event, TokenEvent)]
        assert "".join(pieces) == last.text
        return last

    plain = [answer(params, ()) for params in sampling]
    assert [event.text for event in plain] == [small_tokenizer.decode(event.tokens) for event in plain]
    assert len({event.text for event in plain}) == 30
    spanning = 0
    for params, event in zip(sampling, plain, strict=True):
        stop = event.text[7:10]
        cut = answer(params, (stop, "never seen"))
        assert cut.reason == "stop"
        assert cut.text == event.text[: event.text.index(stop)]
        assert cut.tokens == event.tokens[: len(cut.tokens)]
        assert stop in small_tokenizer.decode(cut.tokens)
        # Found with the very token that completes it; broken bytes are only certain one token later.
        assert "\ufffd" in stop or stop not in small_tokenizer.decode(cut.tokens[:-1])
        spanning += stop not in small_tokenizer.decode(cut.tokens[-1:])
    assert spanning > 10, "most stop strings span tokens"


def test_the_end_token_is_no_text(model: TinyModel, small_tokenizer: Tokenizer) -> None:
    engine = Engine(NumpyExecutor(model), blocks=60, tokenizer=small_tokenizer)
    (plain,) = engine.generate(["abc"], stop=StopConditions(8))
    end = plain.tokens[4]
    (ended,) = engine.generate(["abc"], stop=StopConditions(8, (end,)))
    length = plain.tokens.index(end)
    assert ended.reason == "eos"
    assert ended.tokens == plain.tokens[: length + 1]
    assert ended.text == small_tokenizer.decode(plain.tokens[:length])
