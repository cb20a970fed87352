"""Search for mixtures of schemes on the frontier of size and KL divergence.

The model of a mixture is the sum of its units' sensitivities, and the best mixture under a limit is a multiple-choice
knapsack (`optcc.quant.knapsack`), as in HAWQ-V2 (Dong et al., 2020) with measured divergences in place of second-order
estimates. Sums are only a model: errors of many units add up to more or less than that. So every mixture that is chosen
is measured as a whole, and the limit is corrected by what the sum was wrong by until the measured value meets it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from optcc.errors import BadOption
from optcc.quant.knapsack import choose
from optcc.quant.mixture import Mixture, mixture_bytes
from optcc.quant.sensitivity import Sensitivities, Trial, Watch

_ROUNDS = 6
_CLOSE = 0.97
"""A measured value this near to the limit, as a fraction of it, is near enough."""


@dataclass(frozen=True)
class Point:
    """A mixture that was measured.

    Attributes:
        label: for people.
        mixture: scheme by unit.
        bytes: of all weights of the model, the plain ones included.
        modelled: the sum of the sensitivities, nats per row.
        kl: measured, nats per row.
        error: standard error of that mean, from the spread over rows.
    """

    label: str
    mixture: Mixture
    bytes: int
    modelled: float
    kl: float
    error: float


class Frontier:
    """Measured mixtures of one model.

    Args:
        trial: the model, the data, the units and the candidate schemes.
        sensitivities: of the trial.
        kept: a file of finished measurements, a JSON line each; those that are there are not done again.
        watch: told after each measurement: (text, measured so far, that plus those to come at most).
    """

    def __init__(self, trial: Trial, sensitivities: Sensitivities, kept: Path | None, watch: Watch) -> None:
        self.trial, self.kept, self.watch = trial, kept, watch
        self.schemes = {scheme.name: scheme for scheme in trial.schemes}
        self.names = list(self.schemes)
        self.kl = [[sensitivities[u.name][s] for s in self.names] for u in trial.units]
        self.sizes = [[float(u.bytes(s)) for s in self.schemes.values()] for u in trial.units]
        packed = sum(trial.module.weights.nbytes(m.name) for u in trial.units for m in u.members)
        self.plain = trial.module.weight_bytes() - packed
        self.points: dict[tuple[str, ...], Point] = {}
        self._known = _read(kept)

    def uniform(self) -> list[Point]:
        """Every candidate on all units."""
        return [
            self.measure(f"all {name}", [place] * len(self.trial.units))
            for place, name in enumerate(self.names)
        ]

    def under_bytes(self, limit: int, label: str) -> Point:
        """The mixture of least modelled KL whose weights, plain ones included, take at most so many bytes.

        Raises:
            BadOption: even the smallest mixture takes more.
        """
        smallest = self.plain + sum(int(min(sizes)) for sizes in self.sizes)
        picks = choose(self.kl, self.sizes, limit - self.plain) if limit > self.plain else None
        if picks is None:
            raise BadOption(
                f"weights of at most {limit / 1e6:.1f} MB: the smallest mixture of {', '.join(self.names)} takes "
                f"{smallest / 1e6:.1f} MB"
            )
        return self.measure(label, picks)

    def under_kl(self, limit: float, label: str) -> Point:
        """The smallest mixture found whose measured KL is at most `limit`, in nats per row.

        Raises:
            BadOption: even the mixture of least sensitivity has more.
        """
        best = self.measure("least KL", [row.index(min(row)) for row in self.kl])
        if best.kl > limit:
            raise BadOption(
                f"a KL of at most {limit:g} nats per token: the best of {', '.join(self.names)} has {best.kl:.3g}"
            )
        modelled, low, high = limit, 0.0, float("inf")
        for _ in range(_ROUNDS):
            picks = choose(self.sizes, self.kl, modelled)
            if picks is None:
                low = modelled
                modelled = _between(low, high, modelled * 2)
                continue
            point = self.measure(label, picks)
            if point.kl <= limit:
                low = max(low, modelled)
                best = min(best, point, key=lambda p: (p.bytes, p.kl))
                if point.kl >= _CLOSE * limit:
                    break
            else:
                high = min(high, modelled)
            # What the sum is wrong by at this mixture is what it will be wrong by at the next one, nearly.
            modelled = _between(low, high, limit * point.modelled / max(point.kl, 1e-12))
        return best

    def spread(self, count: int) -> list[Point]:
        """Mixtures of least modelled KL at `count` sizes, evenly spread from the smallest mixture to the largest."""
        low, high = (self.plain + sum(int(pick(sizes)) for sizes in self.sizes) for pick in (min, max))
        limits = [low + (high - low) * i // (count + 1) for i in range(1, count + 1)]
        return [self.under_bytes(limit, f"searched, {limit / 1e6:.0f} MB") for limit in limits]

    def is_best(self, point: Point) -> bool:
        """Whether no other mixture is as small and as near to the original, and better in one of the two."""
        return not any(
            other.bytes <= point.bytes
            and other.kl <= point.kl
            and (other.bytes, other.kl) != (point.bytes, point.kl)
            for other in self.points.values()
        )

    def shares(self, point: Point) -> dict[str, float]:
        """The part of all quantized values that each scheme has."""
        values = {unit.name: sum(rows * width for rows, width in unit.shapes) for unit in self.trial.units}
        return {
            name: sum(n for unit, n in values.items() if point.mixture[unit].name == name)
            / sum(values.values())
            for name in self.names
        }

    def measure(self, label: str, picks: Sequence[int]) -> Point:
        """The mixture of these candidates, one per unit; measured once."""
        key = tuple(self.names[pick] for pick in picks)
        if key in self.points:
            return self.points[key]
        mixture = {u.name: self.schemes[name] for u, name in zip(self.trial.units, key, strict=True)}
        if key not in self._known:
            rows = self.trial.divergences(mixture)
            self._known[key] = float(rows.mean()), float(rows.std() / len(rows) ** 0.5)
            if self.kept is not None:
                with self.kept.open("a") as file:
                    file.write(json.dumps([key, *self._known[key]]) + "\n")
        modelled = sum(row[pick] for row, pick in zip(self.kl, picks, strict=True))
        size = self.plain + mixture_bytes(self.trial.units, mixture)
        point = Point(label, mixture, size, modelled, *self._known[key])
        self.points[key] = point
        self.watch(f"{label}: {size / 1e6:.1f} MB, KL {point.kl:.3g}", len(self.points), len(self.points))
        return point


def _between(low: float, high: float, wanted: float) -> float:
    """The wanted value, or the middle when it isn't strictly between what is known to be enough and too much."""
    if low < wanted < high:
        return wanted
    return (low + high) / 2 if high < float("inf") else 2 * low


def _read(kept: Path | None) -> dict[tuple[str, ...], tuple[float, float]]:
    """Finished measurements; a line cut off by a kill is left out."""
    found: dict[tuple[str, ...], tuple[float, float]] = {}
    for line in kept.read_text().splitlines() if kept is not None and kept.is_file() else ():
        try:
            key, kl, error = json.loads(line)
        except ValueError:
            continue
        found[tuple(key)] = float(kl), float(error)
    return found
