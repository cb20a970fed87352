"""Mixed precision by measurement: every weight in the scheme that costs least where it is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from optcc.errors import BadOption
from optcc.ir.module import Json, Module
from optcc.pm.context import Context
from optcc.quant.frontier import Frontier, Point
from optcc.quant.mixture import Packer, apply_mixture
from optcc.quant.select import Selected, select_weights
from optcc.quant.sensitivity import Sensitivities, make_trial, measure_sensitivities, pick_batches
from optcc.quant.units import Unit, make_units
from optcc.quant.weight_pass import PackingPass, check_not_negative, check_part
from optcc.recipe.schemes import Scheme, load_scheme


@dataclass(frozen=True)
class SearchSchemes(PackingPass):
    """The smallest mixture of schemes with `KL(original || mixture) <= kl`, or the one of least KL within `mb`.

    Each unit of weights (those that read the same value, such as query, key and value, share a scheme) is quantized
    alone in each scheme, and the KL divergence of the logits is measured on calibration data. A knapsack over these
    numbers chooses; the mixture is then measured as a whole, and the choice corrected until it meets the limit. The
    report's table `frontier` has every mixture that was measured, uniform ones included, and `sensitivity` the units.

    Before: canonical, a decoder; every linear is `aten.linear` on a weight. After: canonical; no selected weight is
    left in floating point, and the module's `schemes` say what every packed weight is stored as.

    Options:
        candidates: two or more schemes: names of schemes, or YAML files relative to the recipe.
        kl: limit in nats per token, on the calibration data. 0 for none.
        mb: limit of all weights together, plain ones included, in megabytes of 10^6 bytes. 0 for none.
        tokens: how many tokens of the calibration data to measure on, at least; the time is proportional to it.
        points: mixtures of other sizes to measure for the report, evenly spread between the smallest and the largest.
        estimate: measure only one candidate of every unit, and take the others from the errors of the unit's outputs:
            nearly the same choice in a fraction of the time, with three candidates or more.
        search: ranges to try for every group besides the full one, for the least squared error; 0 takes the full one.
        part: `all`, `body`, or `vocabulary`, which is the embedding and the head. Whether the vocabulary is worth its
            bits is measured too, so `all` takes it in, whatever a scheme's `embedding` says.
        only: names of the weights to take, `*` allowed; empty for all.
        skip: names of weights to leave alone, `*` allowed.
    """

    calibrates: ClassVar[bool] = True

    candidates: tuple[str, ...] = ("int4-g64-a8", "int8-g64-a8")
    kl: float = 0.0
    mb: float = 0.0
    tokens: int = 1024
    points: int = 3
    estimate: bool = False
    search: int = 0
    part: str = "all"
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def schemes(self, base: Path) -> dict[str, Scheme]:
        """The candidates.

        Raises:
            BadOption: fewer than two, two of one name, one with static activations, not exactly one limit, or a number
                below 0.
        """
        check_not_negative(self, "kl", "mb", "tokens", "points", "search")
        if (self.kl > 0) == (self.mb > 0):
            raise BadOption(f"{self.id} needs one limit: `kl` in nats per token or `mb` in megabytes")
        found = {name: load_scheme(name, base) for name in self.candidates}
        if len({scheme.name for scheme in found.values()}) < max(2, len(self.candidates)):
            raise BadOption(f"`candidates` of {self.id} must be two or more schemes of different names")
        if static := [s.name for s in found.values() if s.activation and s.activation.static]:
            raise BadOption(
                f"{self.id} rounds activations with scales of their own, {static[0]} wants static ones"
            )
        return found

    def select(self, module: Module, base: Path, taken: Collection[str] = ()) -> list[Selected]:
        """The weights that any candidate takes, which are those that all of them take.

        Raises:
            GroupSize: a candidate's group doesn't divide a weight.
            BadOption, UnknownScheme: as `select_weights` and `load_scheme`.
        """
        check_part(self.part)
        found: list[Selected] = []
        for scheme in self.schemes(base).values():
            parts = ("body", "vocabulary") if self.part == "all" else (self.part,)
            found = [
                selected
                for part in parts
                for selected in select_weights(
                    module, scheme, self.skip, only=self.only, part=part, taken=frozenset(taken)
                )
            ]
        return found

    def reads(self, base: Path) -> tuple[Path, ...]:
        """Schemes of the user's own."""
        return tuple(base / name for name in self.candidates if (base / name).is_file())

    def run(self, module: Module, ctx: Context) -> bool:
        """Measure, choose, pack. What is measured survives a kill."""
        schemes, selected = list(self.schemes(ctx.base).values()), self.select(module, ctx.base)
        if not selected:
            return False
        batches = pick_batches(ctx.need_calibration(self.id).batches, self.tokens)
        place = ctx.keep("measured")
        packer = Packer(module, ctx.keep("packed"), self.search)
        trial = make_trial(module, batches, make_units(selected), schemes, packer)
        kept = place / "sensitivities.jsonl" if place else None
        sensitivities = measure_sensitivities(trial, not self.estimate, kept, ctx.progress)
        frontier = Frontier(trial, sensitivities, place / "mixtures.jsonl" if place else None, ctx.progress)
        uniform = frontier.uniform()
        chosen = (
            frontier.under_bytes(round(self.mb * 1e6), "searched")
            if self.mb
            else frontier.under_kl(self.kl, "searched")
        )
        frontier.spread(self.points)
        ctx.table("frontier", _frontier_rows(frontier, chosen))
        ctx.table("sensitivity", _sensitivity_rows(trial.units, schemes, sensitivities, chosen))
        apply_mixture(module, trial.units, chosen.mixture, packer)
        for unit in trial.units:
            self.note_schemes(module, unit.members, chosen.mixture[unit.name])
        ctx.note(_told(chosen, uniform, schemes))
        return True


def _frontier_rows(frontier: Frontier, chosen: Point) -> list[dict[str, Json]]:
    """Every mixture that was measured, by size; each scheme's column is its share of the quantized values."""
    rows: list[dict[str, Json]] = []
    for point in sorted(frontier.points.values(), key=lambda p: (p.bytes, p.kl)):
        row: dict[str, Json] = {
            "mixture": point.label,
            "megabytes": round(point.bytes / 1e6, 3),
            "kl": point.kl,
            "kl by sum": point.modelled,
            "best": frontier.is_best(point),
            "chosen": point is chosen,
        }
        rows.append(row | {name: round(share, 4) for name, share in frontier.shares(point).items()})
    return rows


def _sensitivity_rows(
    units: Sequence[Unit], schemes: Sequence[Scheme], sensitivities: Sensitivities, chosen: Point
) -> list[dict[str, Json]]:
    """Every unit: its KL in each scheme, and what was chosen."""
    return [
        {
            "weights": unit.name,
            **{scheme.name: sensitivities[unit.name][scheme.name] for scheme in schemes},
            "chosen": chosen.mixture[unit.name].name,
        }
        for unit in units
    ]


def _told(chosen: Point, uniform: Sequence[Point], schemes: Sequence[Scheme]) -> str:
    names = [chosen.mixture[unit].name for unit in chosen.mixture]
    taken = ", ".join(f"{names.count(s.name)} {s.name}" for s in schemes)
    others = ", ".join(f"{p.label} {p.bytes / 1e6:.1f} MB {p.kl:.3g}" for p in uniform)
    return f"units as {taken}: {chosen.bytes / 1e6:.1f} MB, KL {chosen.kl:.3g} ({others})"
