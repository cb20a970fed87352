"""The events of one request as an iterator that drives the engine when it needs more."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from optcc.runtime.events import Event, FinishedEvent


class Stream(Iterator[Event]):
    """Iterate for events, the FinishedEvent last. Use as a context manager, or `close`, to withdraw early.

    A class and not a generator: closing must cancel even when no event has been asked for yet.

    Attributes:
        request_id: whose events these are.
    """

    def __init__(
        self,
        request_id: str,
        mailbox: deque[Event],
        advance: Callable[[], None],
        cancel: Callable[[], object],
    ) -> None:
        self.request_id = request_id
        self._mailbox = mailbox
        self._advance = advance
        self._cancel = cancel
        self._over = False

    def __next__(self) -> Event:
        if self._over:
            raise StopIteration
        while not self._mailbox:
            self._advance()
        event = self._mailbox.popleft()
        self._over = isinstance(event, FinishedEvent)
        return event

    def result(self) -> FinishedEvent:
        """Run to the end and return the final event. Raises ValueError when it was read or closed already."""
        for event in self:
            if isinstance(event, FinishedEvent):
                return event
        raise ValueError(f"the stream of request {self.request_id!r} is over")

    def close(self) -> None:
        """Drop what wasn't read and cancel the request if it hasn't ended. Closing twice is allowed."""
        # An end that was not read yet is in the mailbox: then the id may already belong to somebody else.
        if not self._over and not any(isinstance(event, FinishedEvent) for event in self._mailbox):
            self._cancel()
        self._over = True
        self._mailbox.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
