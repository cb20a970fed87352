"""Move a factor of a linear's input channels to where it costs nothing.

`linear(x, w)` equals `linear(x * f, w / f)`: AWQ and SmoothQuant choose f so that w / f, or x * f, is easier to round.
The multiplication is folded into what makes x, where that is exact:

- a norm: `norm(y, g) * f = norm(y, g * f)`, and likewise its bias;
- the plain operand of a gated product: `act(gate) * linear(z, u) * f = act(gate) * linear(z, f[:, None] * u)`;
- attention with as many value heads as query heads: `attention(q, k, linear(z, v)) * f` scales the rows of v;

and stays a multiplication in the graph elsewhere, and where x has other readers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from optcc.ir.builder import Builder
from optcc.ir.module import Module

_ATEN, _OPS = torch.ops.aten, torch.ops.optcc
_LINEAR, _RESHAPE = _ATEN.linear.default, _ATEN.reshape.default


@dataclass(frozen=True)
class Moved:
    """Where a factor went.

    Attributes:
        to: "norm", "linear" or "multiply".
        linear: with "linear": its rows are still to be multiplied, bias included; see `scale_rows`.
    """

    to: str
    linear: fx.Node | None = None


def move_factor(module: Module, linears: Sequence[fx.Node], factor: Tensor, *, rows: bool = True) -> Moved:
    """Multiply what some linears read by a factor.

    Args:
        module: changed in place, except for the rows of a linear.
        linears: they read one value, and get it multiplied.
        factor: float32 [K].
        rows: whether a factor may be moved into the rows of another linear.
    """
    x = linears[0].all_input_nodes[0]
    if set(x.users) == set(linears):
        if _into_norm(module, x, factor):
            return Moved("norm")
        source = _rows_behind(module, x) if rows else None
        if source is not None:
            return Moved("linear", source)
    order = {node: i for i, node in enumerate(x.graph.nodes)}
    build = Builder(module, min(linears, key=order.__getitem__))
    name = f"{linears[0].all_input_nodes[1].target}.pre_scale"
    product = build.call(_ATEN.mul.Tensor, x, build.new_weight(name, factor.to(x.meta["val"].dtype)))
    for linear in linears:
        linear.replace_input_with(x, product)
    return Moved("multiply")


def scale_rows(module: Module, linear: fx.Node, factor: Tensor, *, weight: bool = True) -> None:
    """Multiply the rows of a linear's weight, and its bias, by a factor [O].

    Args:
        module: changed in place.
        linear: nobody else reads its weight, which is plain.
        factor: float32 [O].
        weight: False multiplies the bias alone, for a caller that packs the weight itself.
    """
    if weight:
        _multiply(module, linear, 1, factor[:, None])
    if len(linear.args) > 2 and linear.args[2] is not None:
        _multiply(module, linear, 2, factor)


def _multiply(module: Module, node: fx.Node, index: int, factor: Tensor) -> None:
    """Multiply a stored operand; where others read it too, the node gets one of its own."""
    read = node.args[index]
    assert isinstance(read, fx.Node)
    name = str(read.target)
    stored = module.weights[name]
    value = (stored.float() * factor).to(stored.dtype)
    if len(read.users) == 1 and list(node.args).count(read) == 1:
        module.weights.put(name, value)
        return
    own = Builder(module, node).new_weight(f"{name}.scaled", value)
    node.update_arg(index, own)


def _into_norm(module: Module, x: fx.Node, factor: Tensor) -> bool:
    """Fold the factor into the norm that makes x, if one does and its weight is stored."""
    places = (1,) if x.target is _OPS.rms_norm.default else (2, 3)
    if x.target not in (_OPS.rms_norm.default, _ATEN.layer_norm.default) or len(x.args) <= places[0]:
        return False
    operands = [(i, x.args[i]) for i in places if i < len(x.args)]
    if not module.is_weight(operands[0][1]) or not all(v is None or module.is_weight(v) for _, v in operands):
        return False
    for index, value in operands:
        if value is not None:
            _multiply(module, x, index, factor)
    return True


def _rows_behind(module: Module, x: fx.Node) -> fx.Node | None:
    """The linear whose output channels are the channels of x up to things that a factor passes through."""
    if x.target is _ATEN.mul.Tensor:
        candidates = [a for a in reversed(x.args) if isinstance(a, fx.Node)]
        # A square is no product of two values.
        found = next((a for a in candidates if _is_plain(module, a)), None)
        return found if len(set(candidates)) == 2 else None
    if x.target is _RESHAPE and isinstance(attention := x.args[0], fx.Node):
        return _values(module, x, attention)
    return None


def _values(module: Module, x: fx.Node, attention: fx.Node) -> fx.Node | None:
    """The linear that makes an attention's values, if each of its channels is one channel of x."""
    if attention.target not in (_OPS.attention.default, _OPS.masked_attention.default):
        return None
    split = attention.args[2]
    if len(attention.users) != 1 or not isinstance(split, fx.Node) or split.target is not _RESHAPE:
        return None
    if attention.args.count(split) != 1:  # they are the keys too
        return None
    linear = split.args[0]
    heads, width = attention.meta["val"].shape[-2:]
    same = tuple(split.meta["val"].shape[-2:]) == (heads, width) and x.meta["val"].shape[-1] == heads * width
    if not same or len(split.users) != 1 or not isinstance(linear, fx.Node) or not _is_plain(module, linear):
        return None
    return linear if linear.meta["val"].shape[-1] == heads * width else None


def _is_plain(module: Module, node: fx.Node) -> bool:
    """A linear with one reader, whose weight nobody else reads and whose bias is stored."""
    if node.target is not _LINEAR or len(node.users) != 1:
        return False
    weight, bias = node.args[1], node.args[2] if len(node.args) > 2 else None
    if not isinstance(weight, fx.Node) or not module.is_weight(weight) or len(weight.users) != 1:
        return False
    return bias is None or module.is_weight(bias)
