"""Sensitivities: what each unit of weights alone costs in each scheme.

The measure is the KL divergence (nats per row) of the original's logits from those of the module in which only this
unit is quantized. The module is run; everything before a unit's first reader is the same in all variants, so the
original is replayed once, node by node over all batches, and each variant from the values that are live where it begins
to differ. On average that is half of the layers, and the head.

With many candidates it is enough to measure one of them like this. A small change of a unit's outputs moves the logits
in proportion, and the KL with its square, so the others follow from the squared errors of the unit's own outputs:

    KL(unit in s) = KL(unit in anchor) * |y_s - y|^2 / |y_anchor - y|^2

which costs one run of the unit instead of one of all that follows it. (y holds what rounding the activations does.)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, fx
from torch.nn import functional

from optcc.ir.module import Module
from optcc.ir.ops.quantized import dequantize, quantize_activation
from optcc.ir.replay import Batch, Live, Visit, replay, result
from optcc.quant.divergence import Reference
from optcc.quant.mixture import Mixture, Packer, apply_mixture
from optcc.quant.rounding import unpacked
from optcc.quant.units import Unit
from optcc.recipe.schemes import ActivationFormat, Scheme

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
        return self.original.divergences(run(self.variant(mixture), self.batches, given=given))

    def output_errors(self, unit: Unit, live: Live) -> dict[str, float]:
        """Sums of the squared differences that each scheme makes to what the unit's linears compute.

        Args:
            unit: one that no embedding reads.
            live: the original's values before the unit's first reader.
        """
        errors = dict.fromkeys((scheme.name for scheme in self.schemes), 0.0)
        for member in unit.members:
            own = self.module.weights[member.name]
            for scheme in self.schemes:
                stored = unpacked(self.packer(member, scheme), scheme.weight)
                for linear in member.linears:
                    source = linear.args[0]
                    assert isinstance(source, fx.Node)
                    for x in live[source.name]:
                        read = x if scheme.activation is None else _rounded(x, scheme.activation)
                        difference = functional.linear(read, stored) - functional.linear(x, own)
                        errors[scheme.name] += float(difference.double().square().sum())
        return errors


def _rounded(x: Tensor, form: ActivationFormat) -> Tensor:
    """What a linear reads: x quantized and back."""
    values, scale = quantize_activation(x, form.type, form.group, form.scale, None)
    return dequantize(values, scale, None, None, form.type, form.group, 1, x.dtype)


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
    return Trial(module, batches, units, schemes, packer, Reference(run(module, batches)))


def run(
    module: Module, batches: Sequence[Batch], *, given: Live | None = None, visit: Visit | None = None
) -> list[Tensor]:
    """Logits for every batch; arguments as of `replay`."""
    return replay(module, batches, [result(module, RESULT)], given=given, visit=visit)[0]


def pick_batches(batches: Sequence[Batch], tokens: int) -> list[Batch]:
    """Some batches, evenly spread so that all texts have their part.

    Args:
        batches: inputs by name; where `logit_rows` says of which rows logits are wanted, every second one stays:
            neighbours tell nearly the same, and the head is a third of the work.
        tokens: as many batches as hold so many rows of their first input.
    """
    each = max(1, sum(len(next(iter(b.values()))) for b in batches) // len(batches))
    count = min(len(batches), max(1, -(-tokens // each)))
    picked = [batches[i * len(batches) // count] for i in range(count)]
    return [{**b, "logit_rows": b["logit_rows"][::2]} if "logit_rows" in b else b for b in picked]


def measure_sensitivities(trial: Trial, exact: bool, kept: Path | None, watch: Watch) -> Sensitivities:
    """The KL of every unit in every scheme.

    Args:
        trial: what to measure.
        exact: measure every scheme; otherwise one of middle size, from which the others follow. Units that embeddings
            read are always measured.
        kept: a file of finished measurements, a JSON line each; those that are there are not done again.
        watch: told after each unit.
    """
    found = _read(kept)
    starts = _starts(trial)
    done = 0

    def visit(node: fx.Node, live: Live) -> None:
        nonlocal done
        for unit in starts.get(node.name, ()):
            if unit.name not in found:
                found[unit.name] = _of_unit(trial, unit, exact, live)
                if kept is not None:
                    with kept.open("a") as file:
                        file.write(json.dumps([unit.name, found[unit.name]]) + "\n")
            done += 1
            watch(f"sensitivity of {unit.name}", done, len(trial.units))

    if any(unit.name not in found for unit in trial.units):
        run(trial.module, trial.batches, visit=visit)
    return {unit.name: found[unit.name] for unit in trial.units}


def _of_unit(trial: Trial, unit: Unit, exact: bool, live: Live) -> dict[str, float]:
    """KL by scheme."""

    def kl(scheme: Scheme) -> float:
        return float(trial.divergences({unit.name: scheme}, live).mean())

    if exact or unit.embeds:
        return {scheme.name: kl(scheme) for scheme in trial.schemes}
    errors = trial.output_errors(unit, live)
    ranked = sorted(trial.schemes, key=lambda scheme: (errors[scheme.name], scheme.name))
    anchor = ranked[len(ranked) // 2]
    factor = kl(anchor) / max(errors[anchor.name], 1e-30)
    return {name: factor * error for name, error in errors.items()}


def _starts(trial: Trial) -> dict[str, list[Unit]]:
    """The node before which each unit begins to differ: the first reader of its weights."""
    order = {node: place for place, node in enumerate(trial.module.graph.nodes)}
    starts: dict[str, list[Unit]] = {}
    for unit in trial.units:
        starts.setdefault(min(unit.readers, key=order.__getitem__).name, []).append(unit)
    return starts


def _read(kept: Path | None) -> dict[str, dict[str, float]]:
    """Finished units; a line cut off by a kill is left out."""
    found: dict[str, dict[str, float]] = {}
    for line in kept.read_text().splitlines() if kept is not None and kept.is_file() else ():
        try:
            unit, values = json.loads(line)
        except ValueError:
            continue
        found[unit] = values
    return found
