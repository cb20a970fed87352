"""A request: what was asked (frozen) and how far it has come (mutable)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from optcc.errors import BadSampling
from optcc.runtime.sampler import GREEDY, SamplingParams

FinishReason: TypeAlias = Literal["eos", "stop", "length", "cancelled"]
"""eos: an end-of-sequence token; stop: a stop string; length: max_tokens; cancelled: the caller withdrew."""


@dataclass(frozen=True)
class StopConditions:
    """When an answer is over.

    Attributes:
        max_tokens: most tokens to generate, at least 1.
        eos_token_ids: ids that end the answer; None takes the model's own, an empty tuple ignores them.
        strings: texts that end the answer. They are looked for in the text, not in the tokens, and cut off.

    Raises BadSampling (E703).
    """

    max_tokens: int = 128
    eos_token_ids: tuple[int, ...] | None = None
    strings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if type(self.max_tokens) is not int or self.max_tokens < 1:
            raise BadSampling(f"max_tokens is {self.max_tokens!r}", hint="give a whole number, at least 1")
        strings: object = self.strings  # what callers pass on from JSON need not be what the type says
        if not isinstance(strings, tuple | list) or not all(isinstance(s, str) and s for s in strings):
            raise BadSampling(
                f"stop strings are {self.strings!r}", hint="give a list of texts, none of them empty"
            )


@dataclass(frozen=True)
class Request:
    """What a caller asks of the engine.

    Attributes:
        prompt: token ids, at least one.
        sampling: how tokens are chosen.
        stop: when to stop.
        id: any text that no unfinished request has; empty lets the engine choose one.
    """

    prompt: tuple[int, ...]
    sampling: SamplingParams = GREEDY
    stop: StopConditions = StopConditions()
    id: str = ""


@dataclass(eq=False, slots=True)
class RequestState:
    """A request on its way. The scheduler owns `blocks`, `computed` and `running`; the engine appends tokens.

    Attributes:
        request: what was asked, with its id.
        arrival: order of submission, unique.
        eos: ids that end the answer, resolved against the model.
        tokens: prompt and answer so far.
        blocks: pool blocks in order. Append-only while the request runs; another list when it starts over.
        computed: how many of `tokens` have their keys and values in the pool.
        running: holds blocks and takes part in steps; otherwise it waits or is finished.
        preemptions: how often its blocks were taken away.
        finish: why it ended, once it has.
        prompt_length: tokens of the prompt.
    """

    request: Request
    arrival: int
    eos: frozenset[int]
    tokens: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    computed: int = 0
    running: bool = False
    preemptions: int = 0
    finish: FinishReason | None = None
    prompt_length: int = field(init=False)

    def __post_init__(self) -> None:
        self.tokens.extend(self.request.prompt)
        self.prompt_length = len(self.request.prompt)

    @property
    def id(self) -> str:
        """The request's id."""
        return self.request.id

    @property
    def length(self) -> int:
        """Tokens so far, prompt and answer; also the position of the next one."""
        return len(self.tokens)

    @property
    def generated(self) -> tuple[int, ...]:
        """The answer so far."""
        return tuple(self.tokens[self.prompt_length :])

    @property
    def generated_count(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - self.prompt_length

    @property
    def remaining(self) -> int:
        """Tokens still to be computed before the next one can be chosen: 1 when decoding."""
        return len(self.tokens) - self.computed

    @property
    def decoding(self) -> bool:
        """One token away from its next choice, with an answer under way."""
        return len(self.tokens) - self.computed == 1 and self.computed >= self.prompt_length

    @property
    def most_cached(self) -> int:
        """Most tokens it can ever hold in the pool: the last token of an answer is never fed back."""
        return self.prompt_length + self.request.stop.max_tokens - 1
