"""A change of the recipe that keeps the weights that cost most in a better scheme."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from torch import Tensor

from optcc.compile.blame.hybrid import Effect, Hybrid
from optcc.compile.blame.search import Carrier
from optcc.compile.blame.tensors import Packed, Putter
from optcc.errors import NothingToBlame
from optcc.ir.formats import find_format
from optcc.ir.module import Module
from optcc.numbers import human_bytes
from optcc.pm.passes import Pass
from optcc.quant.rounding import round_to_nearest, unpacked
from optcc.quant.weight_pass import PackingPass, WeightPass
from optcc.recipe import Recipe
from optcc.recipe.schema import STAGES
from optcc.recipe.schemes import Scheme, load_scheme

FLOAT = "float"
"""Leaves a weight as it is."""
_TRIES = 6
_STANDS_OUT = 8.0


@dataclass(frozen=True)
class Upgrade:
    """One weight in a better scheme.

    Attributes:
        item: the weight.
        place: of the pass that packs it, within the stage `quantize`.
        scheme: the better one's name, or FLOAT.
        bytes: what it takes more.
        gain: nats per row that putting it back recovers: measured, or its share of a measured group.
        slower: bytes as stored of a weight whose activations are no longer rounded, which ends integer arithmetic.
    """

    item: Packed
    place: int
    scheme: str
    bytes: int
    gain: float
    slower: int = 0

    @property
    def price(self) -> int:
        """Bytes, and the weight's own once more where arithmetic is no longer integer."""
        return max(self.bytes + self.slower, 1)


@dataclass(frozen=True)
class Patch:
    """A recipe that recovers most of the loss.

    Attributes:
        upgrades: weights and what they are kept in.
        dropped: places of passes to leave out, by their text.
        bytes: more than the recipe it changes.
        effect: measured with the weights as the patch stores them; None where nothing can be measured before a compile.
        text: the YAML.
    """

    upgrades: tuple[Upgrade, ...]
    dropped: tuple[str, ...]
    bytes: int
    effect: Effect | None
    text: str = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "weights": {u.item.name: u.scheme for u in self.upgrades},
            "dropped": list(self.dropped),
            "bytes": self.bytes,
            "effect": self.effect.to_json() if self.effect else None,
            "recipe": self.text,
        }


def summary(upgrades: Sequence[Upgrade]) -> str:
    """What they change and cost."""
    count, slower = len(upgrades), sum(u.slower > 0 for u in upgrades)
    size = human_bytes(sum(u.bytes for u in upgrades))
    kept = f"{count} weight{'s' * (count != 1)} kept finer, +{size}"
    return f"{kept}; {slower} no longer round what they read, which costs speed" if slower else kept


def choose(
    hybrid: Hybrid,
    putter: Putter,
    carriers: Sequence[Carrier],
    noise: Sequence[float],
    steps: Sequence[Pass],
    canonical: Module,
    base: Path,
    target: float,
) -> tuple[list[Upgrade], Effect | None]:
    """The weights whose better schemes recover `target` of the loss at the lowest price, and what that recovers.

    Gains are those measured; within a group they are shared out by the noise of its segments and the errors of their
    weights, and so is what no group accounts for among the weights of none. The choice is measured as a whole with the
    weights as they would be stored, and enlarged until it is enough.

    Args:
        noise: of every segment, as of `Hybrid.originals`.
        steps: of the stage `quantize`.
        canonical: the module before the first of them that packs weights.
    """
    loss = float(hybrid.rows.mean())

    def measured(chosen: Sequence[Upgrade]) -> Effect:
        exact = {u.item.name for u in chosen if u.slower}
        return hybrid.probe(put=putter.weights([u.item for u in chosen], _stored_as(chosen, base), exact))

    gains = _gains(putter, carriers, noise, loss)
    places = _places(steps, canonical, base)
    found: list[tuple[list[Upgrade], Effect]] = []
    for finest in (False, True):
        offers = _offers(putter, gains, places, base, finest=finest)
        few = _standing_out(offers)
        if few:
            found.append((few, measured(few)))
            if found[-1][1].share >= target:
                return found[-1]
        chosen, effect = _reach(offers, loss, target, measured)
        if effect is None:
            continue
        found.append((chosen, effect))
        if effect.share >= target:
            return chosen, effect
    # No weights reach the target: the lowest price that recovers most of what the best of these do.
    most = max((effect.share for _, effect in found), default=0.0)
    if most <= 0:
        return [], None
    chosen, effect = _reach(offers, loss, target * most, measured)
    if effect is not None:
        found.append((chosen, effect))
    return min((f for f in found if f[1].share >= target * most), key=lambda f: _price(f[0]))


def _price(chosen: Sequence[Upgrade]) -> int:
    return sum(u.price for u in chosen)


def _reach(
    offers: Sequence[Upgrade], loss: float, target: float, measured: Callable[[Sequence[Upgrade]], Effect]
) -> tuple[list[Upgrade], Effect | None]:
    """The fewest of the offers, in their order, that together recover the target; or all of them.

    Sums of gains are only a model, so the number is searched by halving, from where the model says it is.
    """
    useful = [u for u in offers if u.gain > 0]
    enough, short = len(useful), 0
    best: Effect | None = None
    count = _enough(useful, target * loss)
    for _ in range(_TRIES):
        if not useful or (enough - short <= max(1, len(useful) // 20) and best is not None):
            break
        effect = measured(useful[:count])
        if effect.share >= target or count == len(useful):
            enough, best = count, effect
            if effect.share < target:
                break
        else:
            short = count
        # Double until a choice is enough, then halve what lies between.
        count = min(len(useful), 2 * count) if best is None else (enough + short) // 2
    if best is None and useful:
        best = measured(useful)
    return useful[:enough], best


def _enough(offers: Sequence[Upgrade], wanted: float) -> int:
    """How many of the offers promise so much together."""
    total = 0.0
    for count, offer in enumerate(offers, 1):
        total += offer.gain
        if total >= wanted:
            return count
    return len(offers)


def _standing_out(offers: Sequence[Upgrade]) -> list[Upgrade]:
    """Those that recover many times what a middling one does."""
    gains = sorted(u.gain for u in offers)
    return [u for u in offers if u.gain > _STANDS_OUT * max(gains[len(gains) // 2], 0.0) and u.gain > 0]


def _offers(
    putter: Putter,
    gains: Mapping[str, float],
    places: Mapping[str, tuple[int, Scheme, tuple[int, int]]],
    base: Path,
    *,
    finest: bool,
) -> list[Upgrade]:
    """A better scheme for every weight, or floating point for each; those that gain most for their price first."""
    offers = []
    for item in putter.packed:
        if item.name not in places:
            continue
        place, scheme, shape = places[item.name]
        better = FLOAT if finest else _better(scheme, shape[1])
        now = sum(scheme.weight.bytes(*shape))
        finer = None if better == FLOAT else load_scheme(better, base)
        then = sum(finer.weight.bytes(*shape)) if finer else 4 * shape[0] * shape[1]
        slower = now if scheme.activation and not (finer and finer.activation) else 0
        offers.append(Upgrade(item, place, better, then - now, gains[item.name], slower))
    # Gains within a group are rough: the root keeps a cheap weight from going before all that matters.
    return sorted(offers, key=lambda u: u.gain / math.sqrt(u.price), reverse=True)


def _gains(
    putter: Putter, carriers: Sequence[Carrier], noise: Sequence[float], loss: float
) -> dict[str, float]:
    """By weight, nats per row: what was measured, or its share of what a group recovers or no group accounts for."""
    measured = {c.tensor.name: c.effect.recovered.value for c in carriers if c.tensor is not None}
    parts = _shares(putter, noise)
    gains: dict[str, float] = {}
    for group in carriers:
        if group.kind not in ("part", "parts"):
            continue
        items = [p for p in putter.packed if set(p.segments) & set(group.segments)]
        rest = group.effect.recovered.value - sum(measured.get(i.name, 0.0) for i in items)
        own = {i.name: parts[i.name] for i in items if i.name not in measured}
        for name, value in _shared(max(rest, 0.0), own).items():
            gains[name] = max(gains.get(name, 0.0), value)
    gains |= measured
    rest = max(loss - sum(gains.values()), 0.0)
    return gains | _shared(rest, {name: value for name, value in parts.items() if name not in gains})


def _shares(putter: Putter, noise: Sequence[float]) -> dict[str, float]:
    """By weight: the noise of the segments it stands in, shared out by the errors of all weights therein."""
    errors = {i.name: putter.error(i) for i in putter.packed}
    sums = [0.0] * len(noise)
    for item in putter.packed:
        for number in item.segments:
            sums[number] += errors[item.name]
    return {
        i.name: sum(noise[n] * errors[i.name] / (sums[n] or 1.0) for n in i.segments) for i in putter.packed
    }


def _shared(amount: float, parts: Mapping[str, float]) -> dict[str, float]:
    total = sum(parts.values()) or 1.0
    return {name: amount * part / total for name, part in parts.items()}


def _places(
    steps: Sequence[Pass], canonical: Module, base: Path
) -> dict[str, tuple[int, Scheme, tuple[int, int]]]:
    """By weight: which pass packs it, in which scheme, and its shape."""
    found: dict[str, tuple[int, Scheme, tuple[int, int]]] = {}
    for place, step in enumerate(steps):
        if isinstance(step, PackingPass):
            scheme = next(iter(step.schemes(base).values()))
            for selected in step.select(canonical, base, tuple(found)):
                found.setdefault(selected.name, (place, scheme, selected.shape))
    return found


def _better(scheme: Scheme, width: int) -> str:
    """The 8-bit scheme that is most like a coarser one.

    An 8-bit weight with rounded activations is left in 8 bits and reads them unrounded, which takes no more bytes; one
    with floating point activations stays in floating point itself.
    """
    if find_format(scheme.weight.type).bits >= 8:
        rounds = scheme.weight.type == "int8" and scheme.activation is not None
        return "int8-g64" if rounds and width % 64 == 0 else FLOAT
    group = scheme.weight.group if scheme.weight.group in (32, 64) and width % scheme.weight.group == 0 else 0
    rounds = scheme.activation is not None and not scheme.activation.static
    if group:
        return f"int8-g{group}-a8" if rounds else "int8-g64" if width % 64 == 0 else "int8-channel"
    return "int8-channel-a8" if rounds else "int8-channel"


def _stored_as(chosen: Sequence[Upgrade], base: Path) -> Any:
    by_name = {u.item.name: u.scheme for u in chosen}

    def value(item: Packed, weight: Tensor) -> Tensor:
        scheme = by_name[item.name]
        if scheme == FLOAT:
            return weight
        form = load_scheme(scheme, base).weight
        return unpacked(round_to_nearest(weight, form), form)

    return value


def write_patch(
    recipe: Recipe, extends: str | None, upgrades: Sequence[Upgrade], dropped: Sequence[int], note: str
) -> str:
    """The YAML of a recipe with the upgrades.

    Args:
        recipe: what is changed.
        extends: its name or file; None writes everything out.
        upgrades: weights to keep in other schemes.
        dropped: passes to leave out, as places in the whole list of the recipe's passes.
        note: the description.
    """
    data = recipe.to_json()
    stages: dict[str, list[Any]] = {
        stage: [_located(entry, recipe.base) for entry in data["passes"][stage]] for stage in STAGES
    }
    before = {stage: list(entries) for stage, entries in stages.items()}
    index = 0
    gone: dict[str, list[int]] = {}
    for stage in STAGES:
        for place in range(len(stages[stage])):
            if index in dropped:
                gone.setdefault(stage, []).append(place)
            index += 1
    quantize = stages["quantize"]
    for place in sorted({u.place for u in upgrades}):
        names = [u.item.name for u in upgrades if u.place == place]
        ref, options = _entry(quantize[place])
        quantize[place] = {ref: {**options, "skip": [*options.get("skip", []), *names]}}
    for stage, places in gone.items():
        stages[stage] = [entry for place, entry in enumerate(stages[stage]) if place not in places]
    for scheme in dict.fromkeys(u.scheme for u in upgrades if u.scheme != FLOAT):
        names = [u.item.name for u in upgrades if u.scheme == scheme]
        stages["quantize"].append({"quantize.linear": {"scheme": scheme, "only": names}})
    changed = {s for s in STAGES if stages[s] != before[s]}
    name = f"{recipe.name}-patched"
    if extends is None:
        document = {**data, "name": name, "description": note, "passes": stages}
    else:
        passes = {s: stages[s] for s in STAGES if s in changed}
        document = {"version": 1, "name": name, "description": note, "extends": extends, "passes": passes}
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.representer.sort_base_mapping_type_on_output = False
    yaml.width = 110
    out = io.StringIO()
    yaml.dump(document, out)
    return out.getvalue()


def _located(entry: str | Mapping[str, Any], base: Path) -> str | dict[str, Any]:
    """An entry that names its files from the root, so that the patch may be written anywhere."""

    def whole(value: Any) -> Any:
        relative = isinstance(value, str) and value.startswith(("./", "../"))
        return os.path.normpath(base / value) if relative else value

    if isinstance(entry, str):
        return str(whole(entry))
    ref, options = next(iter(entry.items()))
    return {str(whole(ref)): {name: whole(value) for name, value in options.items()}}


def _entry(entry: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(entry, str):
        return entry, {}
    ref, options = next(iter(entry.items()))
    return ref, dict(options)


def check_patchable(steps: Sequence[Pass], upgrades: Sequence[Upgrade]) -> None:
    """Raise NothingToBlame unless every pass that packs one of the weights can leave weights alone."""
    for upgrade in upgrades:
        step = steps[upgrade.place]
        if not isinstance(step, WeightPass) and not hasattr(step, "skip"):
            raise NothingToBlame(f"{step.id} has no option `skip`, so no weight can be kept out of it")
