"""Linears that read the same value: whatever is done to that value is done to all of them.

q, k and v of an attention, gate and up of a feed-forward layer. A factor on each channel of their input, or one static
scale for it, must be the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from optcc.quant.select import Selected


@dataclass(frozen=True)
class Siblings:
    """Weights that are multiplied by one value; or a single weight that is multiplied by several.

    Attributes:
        weights: names.
        linears: the linears that multiply by them, in the order of `weights`.
    """

    weights: tuple[str, ...]
    linears: tuple[fx.Node, ...]

    @property
    def inputs(self) -> tuple[fx.Node, ...]:
        """The values they read; one, unless a single weight is used in several places."""
        return tuple(dict.fromkeys(linear.all_input_nodes[0] for linear in self.linears))


def find_siblings(selected: Sequence[Selected]) -> list[Siblings]:
    """Group weights by the value they are multiplied by.

    A weight that several linears multiply by stands alone, with all of its linears. So does a tied weight; weights
    that are only looked up are left out.
    """
    groups: dict[fx.Node, list[Selected]] = {}
    found: list[Siblings] = []
    for item in selected:
        if len(item.linears) == 1 and not item.embeddings:
            groups.setdefault(item.linears[0].all_input_nodes[0], []).append(item)
        elif item.linears:
            found.append(Siblings((item.name,), item.linears))
    found += [Siblings(tuple(i.name for i in g), tuple(i.linears[0] for i in g)) for g in groups.values()]
    return found
