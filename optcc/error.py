"""What every error of `optcc.errors` is, and the hint that names what was probably meant.

This module imports nothing but the standard library: `optcc --help` and `optcc run` load it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import ClassVar


class OptccError(Exception):
    """Something optcc can explain.

    Attributes:
        code: stable identifier, `E` and three digits.
        exit_code: what the command line returns: 2 for wrong input, 1 for a failed gate.
        what: one sentence, no trailing period.
        where: file:line, node or recipe key, if known.
        hint: what to do about it, if known.
        others: further errors that were found at the same time.
    """

    code: ClassVar[str] = "E000"
    exit_code: ClassVar[int] = 2

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint
        self.others: tuple[OptccError, ...] = ()

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        hint = f"\n  hint: {self.hint}" if self.hint else ""
        return "\n".join([f"[{self.code}] {place}{self.what}{hint}", *map(str, self.others)])

    def to_json(self) -> dict[str, str | None]:
        """The error as plain data, for `--json`."""
        return {"code": self.code, "what": self.what, "where": self.where, "hint": self.hint}


def together(problems: Sequence[OptccError]) -> OptccError:
    """The first of several errors, which carries the others, so that a user sees all of them at once."""
    first, *rest = problems
    first.others += tuple(rest)
    return first


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the closest known names, or lists them all when few and nothing is close."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    return "known: " + ", ".join(names[:20]) + (" …" if len(names) > 20 else "")
