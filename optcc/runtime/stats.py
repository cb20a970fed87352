"""When things happened to a request. The clock is the engine's; here are only facts."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class RequestTiming:
    """Times in seconds of one clock.

    Attributes:
        submitted: the request was accepted.
        tokens: when each token of the answer was chosen.
        finished: the answer was complete, or cancelled.
    """

    submitted: float
    tokens: list[float] = field(default_factory=list)
    finished: float | None = None

    @property
    def time_to_first_token(self) -> float | None:
        """Seconds from submission to the first token, waiting included; None before there is one."""
        return self.tokens[0] - self.submitted if self.tokens else None

    @property
    def inter_token(self) -> list[float]:
        """Seconds between neighbouring tokens: one less than there are tokens."""
        return [later - earlier for earlier, later in zip(self.tokens, self.tokens[1:], strict=False)]

    @property
    def total(self) -> float | None:
        """Seconds from submission to the end; None while it runs."""
        return None if self.finished is None else self.finished - self.submitted

    def to_json(self) -> dict[str, float | int | None]:
        """The usual summary: seconds, and the mean of the gaps."""
        gaps = self.inter_token
        return {
            "tokens": len(self.tokens),
            "time_to_first_token": self.time_to_first_token,
            "inter_token_mean": sum(gaps) / len(gaps) if gaps else None,
            "total": self.total,
        }


@dataclass(slots=True)
class EngineCounters:
    """What the engine has done so far: steps, tokens computed (recomputed ones again), tokens chosen."""

    steps: int = 0
    computed_tokens: int = 0
    generated_tokens: int = 0
