"""What a pass may know besides its module."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from optcc.ir.rewrite import RewriteLog


@dataclass
class Context:
    """Passed to every pass; there are no globals.

    Attributes:
        backend: name of the backend the module will be lowered to.
        threads: fixed thread count of this compile; part of what makes it repeatable.
        seed: for passes that draw random numbers.
        base: directory that relative paths in pass options are taken from (the recipe's).
        rewrites: what the rules of the pass now running did; read by instruments.
        notes: remarks of the pass now running, for the report.
    """

    backend: str = "reference"
    threads: int = 0
    seed: int = 0
    base: Path = field(default_factory=Path.cwd)
    rewrites: RewriteLog = field(default_factory=RewriteLog)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Leave a remark that the report prints beside the pass."""
        self.notes.append(text)
