"""What a comparison found, as it is written to JSON and read back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.cpu.measure import Attempt, Visit
from benchmarks.cpu.statistics import Ratio, Spread, paired_ratio, spread
from benchmarks.cpu.workload import BY_KEY
from optcc.accuracy.intervals import Estimate, make_units, mean_estimate


@dataclass
class Results:
    """A run, finished or not.

    Attributes:
        facts: machine, versions, model, inputs, workload: what the figures hold for.
        contestants: names, in the order of the tables; optcc's first.
        unavailable: reason by name of peer or contestant.
        visits: every visit of every round.
        limits: what the machine can do, one entry for every round and thread count.
        nll: mean negative log-likelihood in nats of every window, by contestant; windows are equally wide.
    """

    facts: dict[str, Any]
    contestants: list[str] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)
    visits: list[Visit] = field(default_factory=list)
    limits: list[dict[str, float]] = field(default_factory=list)
    nll: dict[str, list[float]] = field(default_factory=dict)

    def values(self, contestant: str, threads: int, metric: str) -> dict[int, float]:
        """By round."""
        return {
            one.round_number: one.figures[metric]
            for one in self.visits
            if (one.contestant, one.threads) == (contestant, threads) and metric in one.figures
        }

    def disturbed(self, contestant: str, threads: int, metric: str) -> bool:
        """Whether others used the CPU in any of the rounds."""
        return any(
            metric in one.disturbed
            for one in self.visits
            if (one.contestant, one.threads) == (contestant, threads)
        )

    def spread(self, contestant: str, threads: int, metric: str) -> Spread | None:
        """Over rounds; None if it was never measured."""
        values = self.values(contestant, threads, metric)
        return spread(list(values.values())) if values else None

    def ratio(self, ours: str, theirs: str, threads: int, metric: str) -> Ratio | None:
        """How many times better `ours` is, over the rounds that have both; None without any."""
        mine, other = (self.values(name, threads, metric) for name in (ours, theirs))
        both = sorted(set(mine) & set(other))
        advantage = BY_KEY[metric].advantage
        return paired_ratio({key: advantage(mine[key], other[key]) for key in both}) if both else None

    def best_peer(self, candidates: Sequence[str], threads: int, metric: str) -> str | None:
        """The candidate with the best median."""
        spreads = {name: self.spread(name, threads, metric) for name in candidates}
        medians = {name: found.median for name, found in spreads.items() if found is not None}
        if not medians:
            return None
        choose = max if BY_KEY[metric].more_is_better else min
        return choose(medians, key=lambda name: medians[name])

    def not_better(self, ours: str, slack: float = 0.002) -> list[str]:
        """Peers whose mean NLL is no lower than that of `ours`; `slack` nats count as equal."""
        if ours not in self.nll:
            return []
        limit = self.mean_nll(ours) - slack
        return [name for name in self.peers() if name in self.nll and self.mean_nll(name) >= limit]

    def mean_nll(self, name: str) -> float:
        """Over all windows."""
        return fmean(self.nll[name])

    def nll_excess(self, ours: str, theirs: str) -> Estimate | None:
        """Mean NLL of a peer less that of `ours`, with a 95 % interval over windows, which both scored alike."""
        if ours not in self.nll or theirs not in self.nll:
            return None
        excess = np.subtract(self.nll[theirs], self.nll[ours])
        return mean_estimate(excess, make_units([[1] * len(excess)]))

    def ours(self) -> list[str]:
        """Optcc's contestants."""
        return [name for name in self.contestants if name.startswith("optcc/")]

    def peers(self) -> list[str]:
        """All others."""
        return [name for name in self.contestants if not name.startswith("optcc/")]

    def threads(self) -> list[int]:
        """Thread counts that were measured, most first."""
        return sorted({one.threads for one in self.visits}, reverse=True)

    def write(self, path: Path) -> None:
        """As JSON; a run that is stopped leaves what it has."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        unfinished.replace(path)

    @classmethod
    def read(cls, path: Path) -> Results:
        """What `write` wrote."""
        data = json.loads(path.read_text(encoding="utf-8"))
        data["visits"] = [_visit(one) for one in data["visits"]]
        return cls(**data)


def _visit(data: dict[str, Any]) -> Visit:
    attempts = {
        name: [Attempt(**{**one, "seconds": tuple(one["seconds"])}) for one in tried]
        for name, tried in data["attempts"].items()
    }
    return Visit(**{**data, "disturbed": tuple(data["disturbed"]), "attempts": attempts})
