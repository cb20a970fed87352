"""The text side of an answer: pieces of text, cut at the first stop string even where it spans tokens."""

from __future__ import annotations

from collections.abc import Sequence

from optcc.runtime.tokenizer import DetokenizeStream


class StopStrings:
    """Finds stop strings in text that arrives in pieces, wherever the pieces are cut.

    The match that *ends* first wins, the longest one on a tie; so the outcome doesn't depend on the pieces.
    Text that may be the beginning of a match is held back.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(strings)
        self._held = ""

    def push(self, piece: str) -> tuple[str, bool]:
        """The text certainly outside of a stop string, and whether one was found. After that, stop."""
        if not self._strings:
            return piece, False
        text = self._held + piece
        found = [(start + len(s), start) for s in self._strings if (start := text.find(s)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)[1]], True
        keep = max((_overlap(text, s) for s in self._strings), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def flush(self) -> str:
        """The text held back, when no more will come."""
        text, self._held = self._held, ""
        return text


class TextStream:
    """Token ids in, text out, up to the first stop string."""

    def __init__(self, detokenizer: DetokenizeStream, stops: Sequence[str]) -> None:
        self._detokenizer = detokenizer
        self._stops = StopStrings(stops)

    def push(self, token: int) -> tuple[str, bool]:
        """The next piece of text and whether a stop string, which is not part of it, ended the answer."""
        return self._stops.push(self._detokenizer.push(token))

    def flush(self) -> tuple[str, bool]:
        """The last piece, when the answer ends for another reason; a stop string may still turn up in it."""
        piece, stopped = self._stops.push(self._detokenizer.flush())
        return (piece, True) if stopped else (piece + self._stops.flush(), False)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
