"""What a compile tells whoever watches it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called from the compile's own thread; must not raise."""

    def stage(self, name: str) -> None:
        """A new stage begins, for example "capture"."""
        ...

    def step(self, text: str, done: int, total: int) -> None:
        """Within a stage, `done` of `total` parts are finished; `text` names the one just finished."""
        ...


class Silent:
    """Says nothing."""

    def stage(self, name: str) -> None:
        """Nothing."""

    def step(self, text: str, done: int, total: int) -> None:
        """Nothing."""
