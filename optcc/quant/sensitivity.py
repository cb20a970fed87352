"""Measured sensitivities: what each unit of weights alone costs in each scheme.

The measure is the KL divergence (nats per row) of the original's logits from those of the module in which only this unit
is quantized. It is no estimate: the module is run. What makes that affordable is that everything before a unit's first
reader is the same in all variants: the original is replayed once, node by node over all batches, and each variant is
replayed from the values that are live where it begins to differ. On average that is half of the layers, and the head.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, fx

from optcc.ir.module import Module
from optcc.ir.replay import Batch, Live, replay
from optcc.quant.divergence import Reference
from optcc.quant.mixture import Mixture, Packer, apply_mixture
from optcc.quant.units import Unit
from optcc.recipe.schemes import Scheme

Watch = Callable[[str, int, int], None]
Sensitivities = Mapping[str, Mapping[str, float]]
"""KL in nats per row by the unit's name, then by the scheme's."""
RESULT = "logits"


@dataclass(frozen=True)
class Trial:
    """What measurements need.

    Attributes:
        module: canonical, in floating point; not changed.
        batches: what to measure on.
        units: of weights, in the order of the graph.
        schemes: the candidates.
        packer: makes the packed weights.
        original: the module's logits on the batches.
    """

    module: Module
    batches: Sequence[Batch]
    units: Sequence[Unit]
    schemes: Sequence[Scheme]
    packer: Packer
    original: Reference

    def variant(self, mixture: Mixture) -> Module:
        """The module with a mixture; the trial's own is not changed."""
        copy = self.packer.scratch(self.module)
        apply_mixture(copy, self.units, mixture, self.packer)
        return copy

    def divergences(self, mixture: Mixture, given: Live | None = None) -> Tensor:
        """KL of every row, float64 [rows]: the module with this mixture, replayed from the given values."""
        return self.original.divergences(replay(self.variant(mixture), self.batches, RESULT, given=given))


def make_trial(
    module: Module,
    batches: Sequence[Batch],
    units: Sequence[Unit],
    schemes: Sequence[Scheme],
    packer: Packer,
) -> Trial:
    """A trial; the original is run.

    Raises:
        PreconditionFailed: the model has no logits.
    """
    return Trial(
        module, batches, units, schemes, packer, Reference(replay(module, batches, RESULT))
    )


def measure_sensitivities(trial: Trial, kept: Path | None, watch: Watch) -> Sensitivities:
    """The KL of every unit in every scheme.

    Args:
        trial: what to measure.
        kept: a file of finished measurements, a JSON line each; those that are there are not done again.
        watch: told after each unit.
    """
    found = _read(kept)
    starts = _starts(trial)
    done = 0

    def visit(node: fx.Node, live: Live) -> None:
        nonlocal done
        for unit in starts.get(node.name, ()):
            known = found.setdefault(unit.name, {})
            for scheme in trial.schemes:
                if scheme.name not in known:
                    kl = float(trial.divergences({unit.name: scheme}, live).mean())
                    known[scheme.name] = kl
                    _append(kept, unit, scheme, kl)
            done += 1
            watch(f"sensitivity of {unit.name}", done, len(trial.units))

    if any(scheme.name not in found.get(unit.name, {}) for unit in trial.units for scheme in trial.schemes):
        replay(trial.module, trial.batches, RESULT, visit=visit)
    return {u.name: {s.name: found[u.name][s.name] for s in trial.schemes} for u in trial.units}


def _starts(trial: Trial) -> dict[str, list[Unit]]:
    """The node before which each unit begins to differ: the first reader of its weights."""
    order = {node: place for place, node in enumerate(trial.module.graph.nodes)}
    starts: dict[str, list[Unit]] = {}
    for unit in trial.units:
        starts.setdefault(min(unit.readers, key=order.__getitem__).name, []).append(unit)
    return starts


def _read(kept: Path | None) -> dict[str, dict[str, float]]:
    """Finished measurements; a line cut off by a kill is left out."""
    found: dict[str, dict[str, float]] = {}
    for line in kept.read_text().splitlines() if kept is not None and kept.is_file() else ():
        try:
            unit, scheme, kl = json.loads(line)
        except ValueError:
            continue
        found.setdefault(unit, {})[scheme] = float(kl)
    return found


def _append(kept: Path | None, unit: Unit, scheme: Scheme, kl: float) -> None:
    if kept is None:
        return
    with kept.open("a") as file:
        file.write(json.dumps([unit.name, scheme.name, kl]) + "\n")
