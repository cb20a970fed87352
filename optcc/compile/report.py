"""The report of a compile, as data. `optcc/cli/table.py` draws it; `report/report.json` keeps it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from optcc.artifact import Manifest, canonical_json
from optcc.compile.fusions import FusionCount
from optcc.compile.ledger import Ledger
from optcc.memory import Peak
from optcc.pm.instruments import PassRecord
from optcc.report.html import render_html
from optcc.report.shape import VERSION, ReportJson


@dataclass(frozen=True)
class Command:
    """What a compile was asked for, as typed; `options` are the rest of the command line."""

    model: str
    recipe: str
    out: str
    options: Sequence[str] = ()


@dataclass(frozen=True)
class Report:
    """Everything a compile found out.

    Attributes:
        model, recipe, backend: their names.
        status: `ok`, `failed`, or `unchecked`.
        passes: one record per pass, in order.
        fusions: what the configuration implies against what was fused.
        ledger: bytes of weights before and after.
        check: measurements and verdicts; None when unchecked.
        speed: tokens per second before and after; None when not measured.
        stages: seconds per stage.
        seconds: wall time of the whole compile.
        peak_bytes: highest resident memory, file-backed pages included.
        anonymous_bytes: highest memory that no file backs, sampled.
        memory: both of every stage.
        speed_limit: the verdict on the speed that the recipe asks for; None when it asks for none.
        roofline: every operator against the machine's limits; None when speed was not measured.
        preflight: what was predicted; the measured figures are put beside it.
        artifact_bytes: size of the whole directory without the report.
        source_bytes: size of the model's weight files.
        host: machine facts.
        date: when it was made, UTC.
        command: what was asked for, as typed; None when not from a command line.
        digests: of the model, of optcc's sources, of the artifact.
        proof: what every pass was held to, and the lowered operators; docs/proof.md.
    """

    model: str
    recipe: str
    backend: str
    status: str
    passes: Sequence[PassRecord]
    fusions: Sequence[FusionCount]
    ledger: Ledger
    check: Mapping[str, Any] | None
    speed: Mapping[str, Any] | None
    stages: Mapping[str, float]
    seconds: float
    peak_bytes: int
    anonymous_bytes: int
    artifact_bytes: int
    source_bytes: int
    memory: Mapping[str, Peak] = field(default_factory=dict)
    preflight: Mapping[str, Any] | None = None
    roofline: Mapping[str, Any] | None = None
    speed_limit: Mapping[str, Any] | None = None
    host: Mapping[str, Any] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    proof: Mapping[str, Any] = field(default_factory=dict)
    date: str = ""
    command: Command | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data for `report/report.json` and `--json`."""
        asked = {"command": asdict(self.command)} if self.command else {}
        return {
            "version": VERSION,
            "date": self.date,
            **asked,
            "model": self.model,
            "recipe": self.recipe,
            "backend": self.backend,
            "status": self.status,
            "passes": [row.to_json() for row in self.passes],
            "fusions": [asdict(f) for f in self.fusions],
            "ledger": self.ledger.to_json(),
            "check": dict(self.check) if self.check is not None else None,
            "speed": dict(self.speed) if self.speed is not None else None,
            "stages": dict(self.stages),
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
            "anonymous_bytes": self.anonymous_bytes,
            "artifact_bytes": self.artifact_bytes,
            "source_bytes": self.source_bytes,
            "memory": {stage: asdict(peak) for stage, peak in self.memory.items()},
            "preflight": self._preflight(),
            "speed_limit": dict(self.speed_limit) if self.speed_limit is not None else None,
            "roofline": dict(self.roofline) if self.roofline is not None else None,
            "host": dict(self.host),
            "digests": dict(self.digests),
            "proof": dict(self.proof),
        }

    def _preflight(self) -> dict[str, Any] | None:
        if self.preflight is None:
            return None
        predicted = self.preflight.get("predicted") or {}
        measured = {
            "artifact_bytes": self.artifact_bytes,
            "peak_bytes": self.peak_bytes,
            "anonymous_bytes": self.anonymous_bytes,
            "seconds": round(sum(self.stages.get(stage, 0.0) for stage in predicted.get("seconds", ())), 3),
        }
        return {**self.preflight, "measured": measured}


def report_page(report: Report, manifest: Manifest) -> str:
    """`report/report.html`: drawn from the report as it is read back, so that later drawings are the same."""
    data = json.loads(canonical_json(report.to_json()))
    return render_html(cast(ReportJson, data), manifest.body())
