"""Patterns over graphs: what a rewrite rule looks for.

A pattern is a tree of `Op` over `Var` (anything, bound by name), `Weight` (a weight, bound by name), `Const`
(a plain value, bound by name), `Either` (alternatives), lists of patterns, and literals. The same name must
bind the same thing everywhere. Addition and multiplication match in both operand orders.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import EllipsisType
from typing import Any

import torch
from torch import fx

from optcc.ir.text import target_name

_COMMUTATIVE = {"aten.add.Tensor", "aten.mul.Tensor"}


@dataclass(frozen=True)
class Var:
    """Any value; the same name must bind the same value."""

    name: str


@dataclass(frozen=True)
class Weight:
    """A weight, read directly."""

    name: str


@dataclass(frozen=True)
class Const:
    """A plain value: number, list, bool, dtype."""

    name: str


@dataclass(frozen=True)
class Op:
    """A call of one of several operators.

    Attributes:
        targets: operator names, such as `aten.mul.Tensor`; `getitem` picks from a tuple. args: a pattern per
        operand; operands beyond them must have their default value, unless the last one is `...`. name: binds
        the node itself.
    """

    targets: tuple[str, ...]
    args: tuple[Pattern, ...]
    name: str | None = None


@dataclass(frozen=True)
class Either:
    """One of several patterns, tried in order."""

    options: tuple[Pattern, ...]


Plain = int | float | bool | str | torch.dtype | None
Pattern = Op | Var | Weight | Const | Either | Plain | list[Any] | EllipsisType


def either(*options: Pattern) -> Either:
    """An `Either` pattern."""
    return Either(options)


def op(targets: str, *args: Pattern, name: str | None = None) -> Op:
    """An `Op` pattern; several operators are separated by `|`."""
    return Op(tuple(t.strip() for t in targets.split("|")), args, name)


@dataclass
class Miss:
    """Why a pattern didn't match: how many operators fitted before, and the reason."""

    depth: int = 0
    reason: str = ""
    node: fx.Node | None = None

    def offer(self, depth: int, reason: str, node: fx.Node | None) -> None:
        """Keep the reason that came after the most operators."""
        if depth >= self.depth:
            self.depth, self.reason, self.node = depth, reason, node


@dataclass(frozen=True)
class Match:
    """A place where a pattern fits.

    Attributes:
        root: the node the pattern's top operator matched.
        values: what every name is bound to.
        nodes: the operators' nodes, the root first.
    """

    root: fx.Node
    values: Mapping[str, Any]
    nodes: tuple[fx.Node, ...]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def node(self, name: str) -> fx.Node:
        """The node bound to `name`."""
        value = self.values[name]
        assert isinstance(value, fx.Node), f"{name} is bound to {value!r}"
        return value

    def shape(self, name: str) -> torch.Size:
        """Shape of the value bound to `name`."""
        shape: torch.Size = self.node(name).meta["val"].shape
        return shape


@dataclass(frozen=True)
class _State:
    values: dict[str, Any] = field(default_factory=dict)
    nodes: tuple[fx.Node, ...] = ()

    def bind(self, name: str | None, value: object) -> _State | None:
        if name is None:
            return self
        if name in self.values:
            known = self.values[name]
            nodes = isinstance(value, fx.Node) or isinstance(known, fx.Node)
            same = known is value if nodes else known == value
            return self if same else None
        return _State({**self.values, name: value}, self.nodes)


def match(pattern: Op, node: fx.Node, miss: Miss | None = None) -> Match | None:
    """Try the pattern with its top operator at `node`.

    Args:
        pattern: what to look for.
        node: where.
        miss: receives the best reason when nothing fits.
    """
    report = miss if miss is not None else Miss()
    for state in _match(pattern, node, _State(), report):
        return Match(node, state.values, state.nodes)
    return None


def _match(pattern: Any, value: object, state: _State, miss: Miss) -> Iterator[_State]:
    depth = len(state.nodes)
    if isinstance(pattern, Op):
        yield from _match_op(pattern, value, state, miss)
        return
    if isinstance(pattern, Var | Weight | Const):
        why = _kind_mismatch(pattern, value)
        bound = state.bind(pattern.name, value) if why is None else None
        if bound is not None:
            yield bound
        else:
            node = value if isinstance(value, fx.Node) else None
            miss.offer(depth, why or f"`{pattern.name}` would have to be two different values", node)
        return
    if isinstance(pattern, Either):
        for option in pattern.options:
            yield from _match(option, value, state, miss)
        return
    if isinstance(pattern, list) and isinstance(value, list | tuple) and len(pattern) == len(value):
        yield from _match_all(tuple(pattern), list(value), state, miss)
        return
    if not isinstance(value, fx.Node) and _plain(value) == _plain(pattern):
        yield state
    else:
        shown = f"%{value.name}" if isinstance(value, fx.Node) else repr(value)
        miss.offer(depth, f"{shown} stands where {pattern!r} is expected", None)


def _kind_mismatch(pattern: Var | Weight | Const, value: object) -> str | None:
    is_node = isinstance(value, fx.Node)
    if isinstance(pattern, Weight) and not (is_node and value.op == "get_attr"):  # type: ignore[attr-defined]
        return f"`{pattern.name}` is not a weight"
    if isinstance(pattern, Const) and is_node:
        return f"`{pattern.name}` is not a constant"
    return None


def _match_op(pattern: Op, value: object, state: _State, miss: Miss) -> Iterator[_State]:
    depth = len(state.nodes)
    called = target_name(value) if isinstance(value, fx.Node) else None
    if not isinstance(value, fx.Node) or called not in pattern.targets:
        shown = f"%{value.name} = {called}" if isinstance(value, fx.Node) else repr(value)
        node = value if isinstance(value, fx.Node) else None
        miss.offer(depth, f"{shown} stands where {' or '.join(pattern.targets)} is expected", node)
        return
    bound = state.bind(pattern.name, value)
    if bound is None:
        miss.offer(depth, f"`{pattern.name}` would have to be two different nodes", value)
        return
    bound = _State(bound.values, (*bound.nodes, value))
    wanted = pattern.args[:-1] if pattern.args and pattern.args[-1] is ... else pattern.args
    operands, rest = _operands(value, len(wanted))
    if rest and wanted is pattern.args:
        miss.offer(depth + 1, f"%{value.name} sets {rest}, which the rule doesn't handle", value)
        return
    orders = [operands]
    if called in _COMMUTATIVE and len(operands) == 2:
        orders.append(operands[::-1])
    for order in orders:
        yield from _match_all(wanted, order, bound, miss)


def _match_all(patterns: tuple[Any, ...], values: list[Any], state: _State, miss: Miss) -> Iterator[_State]:
    if not patterns:
        yield state
        return
    for next_state in _match(patterns[0], values[0], state, miss):
        yield from _match_all(patterns[1:], values[1:], next_state, miss)


def _operands(node: fx.Node, wanted: int) -> tuple[list[Any], str | None]:
    """The first `wanted` operands, and the name of a later one that isn't at its default."""
    full, names, defaults = normalized(node)
    for value, name, default in itertools.islice(zip(full, names, defaults, strict=True), wanted, None):
        if isinstance(value, fx.Node) or _plain(value) != _plain(default):
            return full[:wanted], name
    return full[:wanted], None


def normalized(node: fx.Node) -> tuple[list[Any], list[str], list[Any]]:
    """All operands of a node in schema order with defaults filled in, their names, and the defaults."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return list(node.args), [str(i) for i in range(len(node.args))], [None] * len(node.args)
    names, defaults = _parameters(target)
    rest = zip(names[len(node.args) :], defaults[len(node.args) :], strict=True)
    values = [*node.args, *(node.kwargs.get(name, default) for name, default in rest)]
    return values, list(names), list(defaults)


@functools.cache
def _parameters(target: torch._ops.OpOverload) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """Names and defaults of an operator's operands."""
    arguments = target._schema.arguments
    defaults = (a.default_value if a.has_default_value() else None for a in arguments)
    return tuple(a.name for a in arguments), tuple(defaults)


def _plain(value: object) -> object:
    """Lists and tuples compare equal; True is not 1."""
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return (bool, value) if isinstance(value, bool) else value
