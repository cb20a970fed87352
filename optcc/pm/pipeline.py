"""Pipelines are passes made of passes: they nest, repeat, print, and parse back from what they print."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from optcc.ir.module import Module
from optcc.pm.context import Context
from optcc.pm.contract import Contract, joined
from optcc.pm.passes import Pass


@dataclass(frozen=True)
class Pipeline(Pass):
    """Passes in order. Prints as `a,b{x=1},c`."""

    id: ClassVar[str] = "pipeline"
    passes: tuple[Pass, ...] = ()

    def run(self, module: Module, ctx: Context) -> bool:
        """Run all passes, without instruments; `run_pipeline` adds them."""
        changed = False
        for step in self.passes:
            changed |= step.run(module, ctx)
        return changed

    def promise(self, base: Path) -> Contract:
        """What its passes promise together."""
        return joined([step.promise(base) for step in self.passes])

    def __str__(self) -> str:
        return ",".join(str(p) for p in self.passes)

    def __iter__(self) -> Iterator[Pass]:
        return iter(self.passes)

    def __len__(self) -> int:
        return len(self.passes)


@dataclass(frozen=True)
class Fix(Pass):
    """Passes repeated until nothing changes, at most `times` times. Prints as `fix(8){a,b}`."""

    id: ClassVar[str] = "fix"
    passes: tuple[Pass, ...] = ()
    times: int = 8

    def run(self, module: Module, ctx: Context) -> bool:
        """Repeat until a round changes nothing.

        Raises:
            RuntimeError: still changing after `times` rounds.
        """
        changed = False
        for _ in range(self.times):
            round_changed = False
            for step in self.passes:
                round_changed |= step.run(module, ctx)
            if not round_changed:
                return changed
            changed = True
        raise RuntimeError(f"`{self}` still changes the graph")

    def promise(self, base: Path) -> Contract:
        """What its passes promise together."""
        return joined([step.promise(base) for step in self.passes])

    def __str__(self) -> str:
        return f"fix({self.times}){{{','.join(str(p) for p in self.passes)}}}"
