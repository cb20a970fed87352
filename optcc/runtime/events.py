"""What the engine tells its callers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from optcc.runtime.request import FinishReason, RequestState
from optcc.runtime.stats import RequestTiming


@dataclass(slots=True)
class TokenEvent:
    """One more token of an answer. One is made for each token, and a frozen one takes three times as long.

    Attributes:
        request_id: whose.
        token: its id; the token that ends the answer included.
        index: its place in the answer, from 0.
        text: the text that became certain with it, often not its own: half characters and beginnings of stop
            strings are held back, and the last token brings the rest. Empty without a tokenizer.
    """

    request_id: str
    token: int
    index: int
    text: str


@dataclass(frozen=True)
class FinishedEvent:
    """An answer is over; nothing more comes of this request.

    Attributes:
        request_id: whose.
        reason: why it ended.
        tokens: the whole answer, an end-of-sequence token included.
        text: exactly the texts of its TokenEvents, joined.
        prompt_tokens: length of the prompt.
        preemptions: how often it had to start over for lack of blocks.
        timing: when things happened.
    """

    request_id: str
    reason: FinishReason
    tokens: tuple[int, ...]
    text: str
    prompt_tokens: int
    preemptions: int
    timing: RequestTiming


Event: TypeAlias = TokenEvent | FinishedEvent


def finished_event(state: RequestState, text: str, timing: RequestTiming) -> FinishedEvent:
    """The event of a request whose `finish` is set."""
    assert state.finish is not None
    return FinishedEvent(
        request_id=state.id,
        reason=state.finish,
        tokens=state.generated,
        text=text,
        prompt_tokens=state.prompt_length,
        preemptions=state.preemptions,
        timing=timing,
    )
