"""What a pass may know besides its module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from optcc.errors import NoCalibration
from optcc.ir.module import Json
from optcc.ir.rewrite import RewriteLog


@dataclass(frozen=True)
class Calibration:
    """Data that a pass may learn from; none of it is in what the artifact is checked on.

    Attributes:
        batches: inputs of the canonical module by name, as `interpret(module, batch)` takes them; a decoder gets one
            window of text per batch.
        digest: SHA-256 of the data.
        tokens: in all batches; 0 for models that read no tokens.
        note: for people, when the data is not real.
    """

    batches: tuple[Mapping[str, Tensor], ...]
    digest: str
    tokens: int
    note: str | None = None


def _no_progress(text: str, done: int, total: int) -> None:
    pass


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
        tables: measurements of the pass now running, for the report: name to rows of equal keys.
        calibration: for passes that ask for it (`Pass.calibrates`).
        scratch: directory that the pass now running has for itself; None without a cache.
        progress: told (text, done, total) by passes that take long.
    """

    backend: str = "reference"
    threads: int = 0
    seed: int = 0
    base: Path = field(default_factory=Path.cwd)
    rewrites: RewriteLog = field(default_factory=RewriteLog)
    notes: list[str] = field(default_factory=list)
    tables: dict[str, list[dict[str, Json]]] = field(default_factory=dict)
    calibration: Calibration | None = None
    scratch: Path | None = None
    progress: Callable[[str, int, int], None] = _no_progress

    def note(self, text: str) -> None:
        """Leave a remark that the report prints beside the pass."""
        self.notes.append(text)

    def table(self, name: str, rows: Sequence[Mapping[str, Json]]) -> None:
        """Leave measurements for the report."""
        self.tables[name] = [dict(row) for row in rows]

    def need_calibration(self, step: str) -> Calibration:
        """The calibration data. Raises NoCalibration, naming the pass, when there is none."""
        if self.calibration is None or not self.calibration.batches:
            raise NoCalibration(f"{step} learns from data, and there is none")
        return self.calibration

    def keep(self, name: str) -> Path | None:
        """A directory for unfinished work: it survives a kill, and is removed when the pass has ended.

        None when nothing is kept. What lies there was written by a run of the same pass with the same options on the
        same input.
        """
        if self.scratch is None:
            return None
        place = self.scratch / name
        place.mkdir(parents=True, exist_ok=True)
        return place
