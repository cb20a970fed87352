"""Adaptive group testing: which parts of the model carry the loss, in few measurements.

One part at a time would take as many runs as there are parts. A part that stands out by what it does wrong by itself is
put back first; if that doesn't recover the loss, groups of neighbouring layers are halved, the one that recovers most
first (Dorfman, 1943; Hwang's generalized binary splitting, 1972). Of two halves only the later one is measured, since
what precedes it needs no run; the earlier one recovers what its group does beyond that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from optcc.accuracy.intervals import Estimate
from optcc.compile.blame.hybrid import Effect, Hybrid
from optcc.compile.blame.tensors import Packed, Putter

ENOUGH = 0.8
"""A share of the loss that ends the search."""
_STANDS_OUT = 6.0
_MOST = 0.5
"""A share of the loss that ends the search when nothing else stands out: the rest is spread over all."""
_LITTLE = 0.1
"""A share that what stands out must have for the next to be looked at."""
_CANDIDATES = 4

Watch = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Carrier:
    """Something that carries a part of the loss.

    Attributes:
        kind: `part` of the residual stream, `parts` in a row, `tensor`, `activations`, or `cache`.
        name: of the layer, the weight, or the first and the last of a group.
        segments: numbers of the segments.
        effect: of putting it back.
        how: `measured`, or `by difference` of two measurements.
        tensor: the weight, where it is one.
    """

    kind: str
    name: str
    segments: tuple[int, ...]
    effect: Effect
    how: str = "measured"
    tensor: Packed | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"kind": self.kind, "name": self.name, "how": self.how, **self.effect.to_json()}


def find_parts(hybrid: Hybrid, errors: list[float], budget: int, watch: Watch) -> list[Carrier]:
    """Parts and groups of parts, those that recover most first; together they are the whole model.

    Args:
        hybrid: both sides.
        errors: of each segment by itself, where to look first.
        budget: measurements at most.
        watch: told after each.
    """
    last = hybrid.count
    loss = float(hybrid.rows.mean())
    whole = Effect(hybrid.loss, 0.0, 1.0)
    leaves: list[Carrier] = []
    ordered = sorted(range(last), key=lambda n: errors[n], reverse=True)
    middle = errors[ordered[last // 2]]
    share = 0.0
    for number in ordered[:_CANDIDATES]:
        if errors[number] <= _STANDS_OUT * middle:
            break
        leaf = _carrier(hybrid, number, number + 1, hybrid.probe({number}))
        watch(leaf.name, hybrid.probes, budget)
        leaves.append(leaf)
        share += max(leaf.effect.share, 0.0)
        if share >= ENOUGH or leaf.effect.share < _LITTLE:
            break
    if share >= _MOST:
        return sorted(leaves, key=lambda c: c.effect.recovered.value, reverse=True)
    groups = [_carrier(hybrid, 0, last, whole)]
    while hybrid.probes < budget:
        splittable = [g for g in groups if len(g.segments) > 1]
        if not splittable:
            break
        group = max(splittable, key=lambda g: g.effect.recovered.value)
        best = max(groups, key=lambda g: g.effect.recovered.value)
        if len(best.segments) == 1 and best.effect.share >= ENOUGH:
            break
        groups.remove(group)
        begin, end = group.segments[0], group.segments[-1] + 1
        cut = _cut(begin, end, errors)
        later = _carrier(hybrid, cut, end, hybrid.probe(range(cut, end)))
        watch(later.name, hybrid.probes, budget)
        groups.append(later)
        groups.append(_carrier(hybrid, begin, cut, _less(group.effect, later.effect, loss), "by difference"))
    known = {leaf.segments for leaf in leaves}
    found = [*leaves, *(g for g in groups if g.segments not in known)]
    return sorted(found, key=lambda c: c.effect.recovered.value, reverse=True)


def _cut(begin: int, end: int, errors: list[float]) -> int:
    """Where to split a group: so that both halves do about as much wrong by themselves."""
    half = sum(errors[begin:end]) / 2
    done = 0.0
    for number in range(begin, end):
        done += errors[number]
        if done > half:
            # The segment that holds the middle goes to the side that is left with less.
            cut = number if done - half > errors[number] / 2 else number + 1
            return min(max(cut, begin + 1), end - 1)
    return (begin + end + 1) // 2


def _carrier(hybrid: Hybrid, begin: int, end: int, effect: Effect, how: str = "measured") -> Carrier:
    first, last = hybrid.label(begin), hybrid.label(end - 1)
    name = first if end - begin == 1 else f"{first} … {last}"
    return Carrier("part" if end - begin == 1 else "parts", name, tuple(range(begin, end)), effect, how)


def _less(whole: Effect, part: Effect, loss: float) -> Effect:
    """What a group recovers beyond one of its halves; the widths of both intervals add up."""
    w, p = whole.recovered, part.recovered
    value = w.value - p.value
    found = Estimate(
        value, value - (w.value - w.low) - (p.high - p.value), value + (w.high - w.value) + (p.value - p.low),
        w.units, "difference",
    )  # fmt: skip
    return Effect(found, part.rest - value, value / loss if loss else 0.0)


def find_tensors(
    hybrid: Hybrid, putter: Putter, part: Carrier, budget: int, watch: Watch, known: Collection[str] = ()
) -> list[Carrier]:
    """The weights of a part by what they recover, likeliest first, until one recovers what the part does.

    Where none does, what its linears read is put back unrounded as well. Weights that are known are left out.
    """
    items = [p for p in putter.packed if set(p.segments) & set(part.segments) and p.name not in known]
    items.sort(key=putter.error, reverse=True)
    wanted = ENOUGH * part.effect.recovered.value
    found: list[Carrier] = []
    for item in items:
        if hybrid.probes >= budget:
            break
        effect = hybrid.probe(put=putter.weights([item]))
        watch(item.name, hybrid.probes, budget)
        found.append(Carrier("tensor", item.name, item.segments, effect, tensor=item))
        if effect.recovered.value >= wanted:
            break
    best = max((c.effect.recovered.value for c in found), default=0.0)
    calls = putter.activations(part.segments)
    if best < wanted / 2 and calls and hybrid.probes < budget:
        effect = hybrid.probe(put=calls)
        watch(f"activations of {part.name}", hybrid.probes, budget)
        found.append(Carrier("activations", f"what {part.name} reads", part.segments, effect))
    return sorted(found, key=lambda c: c.effect.recovered.value, reverse=True)


def find_everywhere(hybrid: Hybrid, putter: Putter, watch: Watch, budget: int) -> list[Carrier]:
    """Rounding of activations, and of keys and values, everywhere at once; what isn't rounded is left out."""
    found = []
    everything = tuple(range(hybrid.count))
    for kind, name, put in (
        ("activations", "rounding of all activations", putter.activations()),
        ("cache", "rounding of keys and values", putter.cache()),
    ):
        if put:
            found.append(Carrier(kind, name, everything, hybrid.probe(put=put)))
            watch(name, hybrid.probes, budget)
    return found
