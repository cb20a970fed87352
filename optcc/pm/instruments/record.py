"""Record: what each pass did and cost; always on, the report is made of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from optcc.ir.module import Json, Module
from optcc.ir.rewrite import NearMiss
from optcc.memory import MemoryMeter
from optcc.pm.context import Context
from optcc.pm.passes import Pass


@dataclass
class PassRecord:
    """One row of the report.

    Attributes:
        step: the pass with its options.
        seconds: wall time.
        peak_bytes: highest resident memory of the process while the pass ran.
        changed: whether it changed the module.
        nodes, weight_bytes: after the pass.
        hits: how often each rewrite rule applied.
        misses: places where a rule nearly applied.
        notes: remarks of the pass.
        tables: measurements of the pass: name to rows.
        cached: taken from the cache instead of being run.
        proof: what it was held to, and what was measured; None when it wasn't proven.
    """

    step: str
    seconds: float
    peak_bytes: int
    changed: bool
    nodes: int
    weight_bytes: int
    hits: dict[str, int] = field(default_factory=dict)
    misses: list[NearMiss] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tables: dict[str, list[dict[str, Json]]] = field(default_factory=dict)
    cached: bool = False
    proof: dict[str, Json] | None = None

    def to_json(self) -> dict[str, Json]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, object]) -> PassRecord:
        """The record that `to_json` wrote."""
        fields = dict(data)
        fields["misses"] = [NearMiss(**m) for m in fields.get("misses", [])]  # type: ignore[attr-defined]
        return cls(**fields)  # type: ignore[arg-type]


class Record:
    """Collects a PassRecord per pass.

    Args:
        memory: measures; shared with whoever wants the peak over all passes.
        watch: called with each record as it is made, for progress bars.
    """

    def __init__(
        self, memory: MemoryMeter | None = None, watch: Callable[[PassRecord], None] | None = None
    ) -> None:
        self.rows: list[PassRecord] = []
        self._watch = watch
        self._started = 0.0
        self._memory = memory or MemoryMeter()

    def before(self, step: Pass, module: Module, ctx: Context) -> bool:
        """Start the clock and the memory meter."""
        self._memory.restart()
        self._started = time.perf_counter()
        return True

    def after(self, step: Pass, module: Module, ctx: Context, changed: bool) -> None:
        """Note what the pass did."""
        seconds = time.perf_counter() - self._started
        self.add(
            PassRecord(
                str(step),
                round(seconds, 4),
                self._memory.peak(),
                changed,
                module.count(),
                module.weight_bytes(),
                dict(ctx.rewrites.hits),
                list(ctx.rewrites.misses),
                list(ctx.notes),
                dict(ctx.tables),
            )
        )

    def add(self, row: PassRecord) -> None:
        """Take over a record, for example one from the cache."""
        self.rows.append(row)
        if self._watch:
            self._watch(row)
