"""A scheme for every unit of weights: what it takes, and the module it makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from torch import fx

from optcc.ir.module import Module
from optcc.ir.ops.quantized import PARTS
from optcc.ir.weights import WeightStore
from optcc.quant.attach import attach_activations, attach_weight
from optcc.quant.rounding import PackedWeight, round_to_nearest
from optcc.quant.select import Selected
from optcc.quant.units import Unit
from optcc.recipe.schemes import ActivationFormat, Scheme

Mixture = Mapping[str, Scheme]
"""A scheme by the unit's name."""
Pack = Callable[[Selected, Scheme], PackedWeight]
"""A weight as it is stored in a scheme."""


class Packer:
    """Rounds weights to nearest, each in each scheme once.

    Args:
        module: whose weights; only names and values are taken from it.
        directory: where packed tensors are kept; a temporary one when None.
        search: ranges tried for every group besides the full one.
    """

    def __init__(self, module: Module, directory: Path | None, search: int) -> None:
        self.weights, self.search = module.weights.clone(), search
        self.store = WeightStore(directory)

    def __call__(self, selected: Selected, scheme: Scheme) -> PackedWeight:
        """The weight as it is stored in the scheme."""
        names = {part: f"{selected.name}@{scheme.name}.{part}" for part in PARTS}
        if names["packed"] not in self.store:
            packed = round_to_nearest(self.weights[selected.name], scheme.weight, search=self.search)
            for part, tensor in packed.tensors().items():
                self.store.put(names[part], tensor)
        return PackedWeight(**{part: self.store[name] for part, name in names.items() if name in self.store})

    def scratch(self, module: Module) -> Module:
        """A copy of a module whose new weights are written to this packer's directory."""
        copy = module.clone()
        copy.weights._temporary, copy.weights.directory = self.store._temporary, self.store.directory
        return copy


def apply_mixture(module: Module, units: Sequence[Unit], mixture: Mixture, pack: Pack) -> None:
    """Quantize the units of a module that have a scheme, weights and what their linears read.

    Args:
        module: changed. Weights of the units are found by the names of their readers, so it may be a copy of the module
            that the units were made for.
        units: in the order of the graph.
        mixture: units that aren't in it stay as they are.
        pack: makes the packed weights.
    """
    nodes = {node.name: node for node in module.graph.nodes}
    inputs: dict[ActivationFormat, list[fx.Node]] = {}
    for unit in units:
        scheme = mixture.get(unit.name)
        if scheme is not None and scheme.activation:
            inputs.setdefault(scheme.activation, []).extend(nodes[n.name] for n in unit.linears)
    for form, linears in inputs.items():
        order = {node: place for place, node in enumerate(module.graph.nodes)}
        attach_activations(module, sorted(linears, key=order.__getitem__), form)
    for unit in units:
        scheme = mixture.get(unit.name)
        if scheme is None:
            continue
        for member in unit.members:
            own = Selected(
                member.name, member.shape, _twins(nodes, member.linears), _twins(nodes, member.embeddings)
            )
            attach_weight(module, own, pack(member, scheme), scheme.weight)


def _twins(nodes: Mapping[str, fx.Node], of: Iterable[fx.Node]) -> tuple[fx.Node, ...]:
    return tuple(nodes[node.name] for node in of)


def mixture_bytes(units: Sequence[Unit], mixture: Mixture) -> int:
    """Bytes of all weights of the mixture, scales and zero points included."""
    return sum(unit.bytes(mixture[unit.name]) for unit in units if unit.name in mixture)
