"""Find the residual stream of a decoder: who writes it, who reads it, and whether it can be rotated.

The stream is every value that the embedding reaches through additions, multiplications by numbers and changes of
shape that leave the last dimension alone. No model's code is known here, only dataflow. What adds to it from outside
are its writers (linears, tables, constants); what takes from it are its readers (linears, through a norm or not).

For an orthogonal Q, the stream can be kept as x Q instead of x exactly when that is all there is: a norm's direction
commutes with Q, and linears absorb it. Source: Ashkboos et al., "SliceGPT", 2024, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, fx

from optcc.ir.module import Module

aten = torch.ops.aten
_LINEAR, _EMBEDDING = aten.linear.default, aten.embedding.default
RMS_NORM, LAYER_NORM = torch.ops.optcc.rms_norm.default, aten.layer_norm.default
_SUMS = (aten.add.Tensor, aten.sub.Tensor)
_SCALINGS = (aten.mul.Tensor, aten.div.Tensor)
_AXIS_OPS = (aten.select.int, aten.slice.Tensor, aten.index_select.default)
_SAME = (aten._to_copy.default, aten.neg.default)


@dataclass(frozen=True)
class Reader:
    """A linear that reads the stream.

    Attributes:
        linear: the node.
        norm: the norm between, or None.
    """

    linear: fx.Node
    norm: fx.Node | None


@dataclass(frozen=True)
class Residual:
    """The stream of a graph.

    Attributes:
        width: channels D.
        norms: all norms that read it, in order.
        readers: linears that read it.
        writers: linears whose result is added to it.
        tables: embeddings whose rows are added to it.
        constants: weights [..., D] that are added to it.
        refused: why it can't be rotated, and the nodes with each reason; empty if it can.
    """

    width: int
    norms: tuple[fx.Node, ...]
    readers: tuple[Reader, ...]
    writers: tuple[fx.Node, ...]
    tables: tuple[fx.Node, ...]
    constants: tuple[fx.Node, ...]
    refused: Mapping[str, tuple[fx.Node, ...]]

    @property
    def centered(self) -> bool:
        """Whether norms take the mean away (LayerNorm), so that it can be taken away where the stream is written."""
        return any(norm.target is LAYER_NORM for norm in self.norms)


@dataclass
class _Search:
    """What the search has found so far."""

    width: int
    values: dict[fx.Node, None] = field(default_factory=dict)
    refused: dict[str, tuple[fx.Node, ...]] = field(default_factory=dict)

    def refuse(self, node: fx.Node, why: str) -> None:
        self.refused[why] = (*self.refused.get(why, ()), node)


def find_residual(module: Module) -> Residual | None:
    """The residual stream of the main graph; None if nothing looks up tokens.

    Args:
        module: canonical; not changed.
    """
    seeds = [n for n in module.graph.nodes if n.target is _EMBEDDING and _is_token_table(n)]
    if not seeds:
        return None
    search = _flood(seeds)
    if not any(user.target in (RMS_NORM, LAYER_NORM) for v in search.values for user in v.users):
        # A narrow embedding is projected to the stream's width first (OPT-350m, ALBERT).
        projections = [u for v in search.values for u in v.users if u.target is _LINEAR and u.args[0] is v]
        if projections:
            search = _flood(projections)
    return _describe(search)


def _is_token_table(node: fx.Node) -> bool:
    """Whether an embedding is looked up by token ids."""
    value = node.args[1]
    while isinstance(value, fx.Node) and value.op == "call_function" and value.all_input_nodes:
        value = value.all_input_nodes[0]
    return isinstance(value, fx.Node) and value.op == "placeholder" and value.name == "input_ids"


def _flood(seeds: list[fx.Node]) -> _Search:
    """All values that are in the same space as the seeds."""
    search = _Search(int(seeds[0].meta["val"].shape[-1]))
    pending = list(seeds)
    while pending:
        value = pending.pop()
        if value in search.values:
            continue
        search.values[value] = None
        pending += _same_space(value)
        pending += [user for user in value.users if value in _same_space(user)]
    search.values = {node: None for node in seeds[0].graph.nodes if node in search.values}
    return search


def _same_space(node: fx.Node) -> list[fx.Node]:
    """The operands that a node's result is a rotation of whenever they are: empty for all but a few operators."""
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
        return []
    target, first = node.target, node.args[0]
    if target in _SUMS:
        both = [first, node.args[1]]
        return [x for x in both if isinstance(x, fx.Node)] if all(_is_wide(x, node) for x in both) else []
    if target in _SCALINGS:
        return [first] if isinstance(node.args[1], int | float) else []
    if not _is_wide(first, node):
        return []
    if target in _SAME or target is aten.reshape.default:
        return [first]
    if target in _AXIS_OPS:
        axis = node.args[1] if len(node.args) > 1 else 0
        rank = len(first.meta["val"].shape)
        return [first] if isinstance(axis, int) and axis % rank != rank - 1 else []
    if target is aten.index.Tensor:
        indices = node.args[1]
        assert isinstance(indices, list | tuple)
        rank = len(first.meta["val"].shape)
        return [first] if len(indices) < rank or indices[-1] is None else []
    return []


def _is_wide(value: object, node: fx.Node) -> bool:
    """Whether an operand is a tensor with as many channels as the node's result."""
    return isinstance(value, fx.Node) and _channels(value) == _channels(node) is not None


def _channels(node: fx.Node) -> int | None:
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or not value.dim() or not isinstance(value.shape[-1], int):
        return None
    return int(value.shape[-1])


def _describe(search: _Search) -> Residual:
    """Sort what touches the stream into writers and readers; the rest is why it is refused."""
    norms, readers, writers, tables, constants = [], [], [], [], []
    for value in search.values:
        if value.op == "get_attr":
            constants.append(value)
        elif value.target is _LINEAR:
            writers.append(value)
        elif value.target is _EMBEDDING:
            tables.append(value)
        elif not _same_space(value):
            search.refuse(value, _why_not_writer(value))
        for user in value.users:
            if user in search.values:
                continue
            if user.target in (RMS_NORM, LAYER_NORM) and user.args[0] is value:
                norms.append(user)
                readers += [Reader(linear, user) for linear in _norm_readers(user, search)]
            elif user.target is _LINEAR and user.args[0] is value:
                readers.append(Reader(user, None))
            else:
                search.refuse(user, "reads the residual stream and is neither a norm nor a linear")
    found = Residual(
        search.width, tuple(norms), tuple(readers), tuple(writers), tuple(tables), tuple(constants), {}
    )
    _refuse_mixed_norms(found, search)
    _refuse_shared_weights(found, search)
    return replace(found, refused=dict(search.refused))


def _why_not_writer(node: fx.Node) -> str:
    if node.target in (RMS_NORM, LAYER_NORM):
        return "is a norm after a branch: its weight scales single channels of what is added to the residual stream"
    return "writes the residual stream and is neither a linear nor an embedding"


def _norm_readers(norm: fx.Node, search: _Search) -> Iterator[fx.Node]:
    """The linears that read a norm's result, perhaps in another shape; anything else is refused."""
    if norm.target is LAYER_NORM and list(norm.args[1]) != [search.width]:  # type: ignore[arg-type]
        search.refuse(norm, f"normalizes {norm.args[1]} together, not the {search.width} channels")
    pending = [norm]
    while pending:
        value = pending.pop()
        for user in value.users:
            if user.target is _LINEAR and user.args[0] is value:
                yield user
            elif user in search.values:
                continue  # a norm that writes the stream is refused as a writer
            elif user.target not in _SUMS and value in _same_space(user):
                pending.append(user)
            else:
                search.refuse(user, "reads a norm of the residual stream and is not a linear")


def _refuse_mixed_norms(found: Residual, search: _Search) -> None:
    """Folding the mean is exact only where all that reads the stream takes the mean away."""
    if not found.centered:
        return
    for norm in found.norms:
        if norm.target is RMS_NORM:
            search.refuse(norm, "keeps the mean of the residual stream, which other norms take away")
    for reader in found.readers:
        if reader.norm is None:
            search.refuse(reader.linear, "reads the residual stream with its mean, which norms take away")


def _refuse_shared_weights(found: Residual, search: _Search) -> None:
    """Weights that several nodes read in ways that one tensor can't serve, or that are no plain weights."""
    uses: dict[fx.Node, dict[object, int]] = {}

    def use(node: fx.Node, place: int, role: object) -> None:
        if len(node.args) <= place or node.args[place] is None:
            return
        weight = node.args[place]
        assert isinstance(weight, fx.Node)
        if weight.op != "get_attr":
            search.refuse(
                node, "reads a weight that is computed or already quantized; rotate before quantizing"
            )
            return
        roles = uses.setdefault(weight, {})
        roles[role] = roles.get(role, 0) + 1

    writers = set(found.writers)
    tables = {t.args[0] for t in found.tables}
    for reader in found.readers:
        tied = reader.linear.args[1] in tables
        writes = reader.linear in writers
        use(reader.linear, 1, "table" if tied else ("read", reader.norm, writes))
        use(reader.linear, 2, ("read", reader.norm, reader.linear.args[1], writes))
    for writer in writers - {r.linear for r in found.readers}:
        use(writer, 1, "write")
        use(writer, 2, "added")
    for table in found.tables:
        use(table, 0, "table")
    for constant in found.constants:
        uses.setdefault(constant, {})["added"] = len([u for u in constant.users if u in search.values])
    for weight, roles in uses.items():
        if len(roles) > 1:
            search.refuse(weight, "is shared by nodes that would need it rotated in different ways")
        elif sum(roles.values()) != len(weight.users):
            search.refuse(weight, "is also read by a node that has nothing to do with the residual stream")
