"""The residual stream of a decoder: the values through which all later computation goes.

A value of the graph is a cut when every path from the token embedding to the logits goes through it: walking the nodes
in order, it is the only one that a later node still reads. The sums of a block's output and the stream are cuts in
every architecture with sequential blocks, captured, canonical and fused alike. Between two of them lies a segment: the
attention or the feed-forward part of a layer, or both where they are parallel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from optcc.errors import NothingToBlame
from optcc.ir.module import Module
from optcc.ir.replay import result

_ADD = torch.ops.aten.add.Tensor
_FUSED = torch.ops.optcc.add_rms_norm.default
_EMBEDDINGS = (torch.ops.aten.embedding.default, torch.ops.optcc.quantized_embedding.default)


@dataclass(frozen=True)
class Segment:
    """The nodes between two cuts, in order; the last one makes the cut's value.

    Attributes:
        nodes: that depend on the token embedding; what they read besides is the same whatever ran before.
        label: what its weights have in common, as in `model.layers.3.mlp`.
        weights: names of all weights that its nodes read.
    """

    nodes: tuple[fx.Node, ...]
    label: str
    weights: tuple[str, ...]

    @property
    def end(self) -> fx.Node:
        """The node whose value is the next segment's input."""
        return self.nodes[-1]


def find_segments(module: Module) -> list[Segment]:
    """The segments of a decoder from the token ids to the logits; the first one is the embedding.

    Raises:
        NothingToBlame: no logits, no token embedding, or no residual stream.
    """
    if module.attrs.get("kind") != "decoder" or "logits" not in module.output_names():
        raise NothingToBlame(
            "blame puts back parts of a decoder, and this model has no logits",
            hint="optcc bisect names the pass that broke any model",
        )
    path = _path(module)
    ends = _ends(module, path)
    segments: list[Segment] = []
    first = 0
    for end in ends:
        last = path.index(end, first) + 1
        segments.append(_segment(tuple(path[first:last]), len(segments)))
        first = last
    return segments


def _path(module: Module) -> list[fx.Node]:
    """Tensors that depend on the embedding of the token ids and that the logits depend on, in order."""
    logits = result(module, "logits")
    needed = {logits}
    nodes = [n for n in module.graph.nodes if n.op == "call_function"]
    for node in reversed(nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
    found: dict[fx.Node, None] = {}
    for node in nodes:
        grows = node.target in _EMBEDDINGS and _reads_ids(node)
        if node in needed and _is_value(node) and (grows or any(n in found for n in node.all_input_nodes)):
            found[node] = None
    if not found:
        raise NothingToBlame("blame starts at the embedding of the input `input_ids`, and finds none")
    return list(found)


def _is_value(node: fx.Node) -> bool:
    return isinstance(node.meta["val"], Tensor | tuple | list)


def _reads_ids(node: fx.Node) -> bool:
    pending = list(node.all_input_nodes)
    while pending:
        one = pending.pop()
        if one.op == "placeholder" and one.name == "input_ids":
            return True
        if one.op == "call_function":
            pending.extend(one.all_input_nodes)
    return False


def _ends(module: Module, path: list[fx.Node]) -> list[fx.Node]:
    """Where segments end: the embedding, every residual sum that is a cut, and the logits."""
    inside, place = set(path), {node: i for i, node in enumerate(path)}
    last = {node: max((place[u] for u in node.users if u in inside), default=len(path)) for node in path}
    cuts, reach = [], 0
    for i, node in enumerate(path):
        if i and reach > i:  # an earlier value is read beyond this node
            reach = max(reach, last[node])
            continue
        cuts.append(node)
        reach = max(reach, last[node])
    sums = [n for n in cuts if _is_sum(n, inside)]
    if not sums:
        raise NothingToBlame("blame follows the residual stream from layer to layer, and finds none")
    before = [n for n in cuts if place[n] < place[sums[0]]]
    return [*before[-1:], *sums, path[-1]]


def _is_sum(node: fx.Node, inside: set[fx.Node]) -> bool:
    """Whether a node adds two values of the path."""
    if node.target is _FUSED:
        return True
    return node.target is _ADD and len(node.args) > 1 and all(n in inside for n in node.args[:2])


def _segment(nodes: tuple[fx.Node, ...], number: int) -> Segment:
    names = tuple(dict.fromkeys(str(w.target) for n in nodes for w in _weights_of(n)))
    wide = [w for n in nodes for w in _weights_of(n) if len(w.meta["val"].shape) == 2 and not _is_scale(w)]
    label = _common([str(w.target).split(".") for w in wide])
    return Segment(nodes, label or f"part {number}", names)


def _weights_of(node: fx.Node) -> list[fx.Node]:
    """Weights that a node reads, directly or through operators on weights alone (a dequantize)."""
    found, pending = [], list(node.all_input_nodes)
    while pending:
        one = pending.pop(0)
        if one.op == "get_attr":
            found.append(one)
        elif one.target is torch.ops.optcc.dequantize.default:
            pending.extend(n for n in one.all_input_nodes if n.op == "get_attr")
    return found


def _is_scale(node: fx.Node) -> bool:
    return str(node.target).endswith((".scale", ".zero", ".tensor_scale"))


def _common(names: list[list[str]]) -> str:
    """What dotted names begin with; without the last word, which says weight or packed."""
    if not names:
        return ""
    shared = []
    for words in zip(*names, strict=False):
        if len(set(words)) > 1:
            break
        shared.append(words[0])
    while shared and shared[-1] in ("packed", "weight"):
        shared.pop()
    return ".".join(shared)
