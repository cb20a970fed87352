"""Which weights a scheme applies to, decided from types alone: no weight is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import fx

from optcc.errors import BadOption, GroupSize
from optcc.ir.module import Module
from optcc.recipe.schemes import Scheme

_LINEAR = torch.ops.aten.linear.default
_EMBEDDING = torch.ops.aten.embedding.default
_CONVOLUTIONS = tuple(getattr(torch.ops.aten, f"conv{n}d").default for n in (1, 2, 3))
PARTS = ("all", "body", "vocabulary")
_COMMON_GROUPS = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Selected:
    """A weight to quantize.

    Attributes:
        name: the weight.
        shape: [O, K]; of a convolution [O, C/groups * kernel].
        linears: the linears, or the convolutions, that multiply by it.
        embeddings: the look-ups that read its rows; with linears too, the weight is tied.
    """

    name: str
    shape: tuple[int, int]
    linears: tuple[fx.Node, ...]
    embeddings: tuple[fx.Node, ...]


def select_weights(
    module: Module,
    scheme: Scheme,
    skip: Sequence[str] = (),
    *,
    only: Sequence[str] = (),
    part: str = "all",
    taken: frozenset[str] = frozenset(),
    convolutions: bool = False,
) -> list[Selected]:
    """The weights of all linears, and of embeddings and the head where the scheme says so.

    Args:
        module: canonical; not changed.
        scheme: what to store weights as.
        skip: names, `*` allowed, of weights to leave alone.
        only: names, `*` allowed, of the weights to take; empty for all.
        part: of PARTS.
        taken: names that are not there any more.
        convolutions: take their weights too.

    Raises:
        GroupSize: weights whose width the group doesn't divide, all of them, with the groups that do.
        BadOption: a name in `skip` or `only` matches nothing.
    """
    candidates = _candidates(module) + (_convolutions(module) if convolutions else [])
    found = [s for s in candidates if _in_part(module, s, part, scheme) and s.name not in taken]
    _check_patterns(candidates, "skip", skip)
    _check_patterns(candidates, "only", only)
    chosen = [s for s in found if not any(fnmatchcase(s.name, p) for p in skip)]
    if only:
        chosen = [s for s in chosen if any(fnmatchcase(s.name, p) for p in only)]
    check_groups(chosen, scheme.weight.group, scheme.name)
    if scheme.activation:
        check_groups([s for s in chosen if s.linears], scheme.activation.group, scheme.name)
    return chosen


def _in_part(module: Module, selected: Selected, part: str, scheme: Scheme) -> bool:
    if part == "all" and scheme.embedding:
        return True
    vocabulary = bool(selected.embeddings) or is_head(module, selected)
    return vocabulary if part == "vocabulary" else not vocabulary


def _candidates(module: Module) -> list[Selected]:
    found = []
    for node in module.nodes():
        if node.op != "get_attr" or len(node.meta["val"].shape) != 2:
            continue
        linears = tuple(u for u in node.users if u.target is _LINEAR and u.args[1] is node)
        embeddings = tuple(u for u in node.users if u.target is _EMBEDDING and u.args[0] is node)
        if (linears and len(linears) + len(embeddings) == len(node.users)) or _is_vocabulary(
            module, embeddings, node
        ):
            rows, width = node.meta["val"].shape
            found.append(Selected(str(node.target), (int(rows), int(width)), linears, embeddings))
    return found


def _convolutions(module: Module) -> list[Selected]:
    found = []
    for node in module.nodes():
        users = tuple(node.users)
        if node.op == "get_attr" and users and all(_convolves(user, node) for user in users):
            rows, *rest = (int(d) for d in node.meta["val"].shape)
            found.append(Selected(str(node.target), (rows, math.prod(rest)), users, ()))
    return found


def _convolves(user: fx.Node, weight: fx.Node) -> bool:
    """Whether a node is a convolution by this weight, which is none of its other operands."""
    operands = [a for a in user.all_input_nodes if a is weight]
    return user.target in _CONVOLUTIONS and user.args[1] is weight and len(operands) == 1


def _is_vocabulary(module: Module, embeddings: tuple[fx.Node, ...], node: fx.Node) -> bool:
    """A table looked up by token ids; tables of positions and types are small and stay as they are."""
    if not embeddings or len(embeddings) != len(node.users):
        return False
    return any(_reads_input(e.args[1], "input_ids") for e in embeddings)


def _reads_input(value: object, name: str) -> bool:
    while isinstance(value, fx.Node) and value.op == "call_function" and value.all_input_nodes:
        value = value.all_input_nodes[0]
    return isinstance(value, fx.Node) and value.op == "placeholder" and value.name == name


def is_head(module: Module, selected: Selected) -> bool:
    """Whether the weight makes the logits: every later node down to the result has the vocabulary's width."""
    if module.attrs.get("kind") != "decoder":
        return False
    pending = list(selected.linears)
    while pending:
        node = pending.pop()
        if node.op == "output":
            return True
        value = node.meta["val"]
        if isinstance(value, torch.Tensor) and value.shape[-1] == selected.shape[0]:
            pending.extend(node.users)
    return False


def check_groups(chosen: Sequence[Selected], group: int, scheme: str) -> None:
    """Raise GroupSize unless the group divides every weight's width."""
    bad = [s for s in chosen if group and s.shape[1] % group]
    if not bad:
        return
    fit = [g for g in _COMMON_GROUPS if all(s.shape[1] % g == 0 for s in chosen)]
    names = ", ".join(f"{s.name} ({s.shape[1]})" for s in bad[:4]) + (
        f" and {len(bad) - 4} more" if len(bad) > 4 else ""
    )
    advice = (
        f"groups of {', '.join(map(str, fit))} divide all weights"
        if fit
        else "no group from 16 to 256 divides all weights"
    )
    raise GroupSize(
        f"groups of {group} (scheme {scheme}) don't divide the width of {len(bad)} weights: {names}",
        hint=f"{advice}; one scale per output channel (group 0) always does; `skip` leaves weights out",
    )


def _check_patterns(found: Sequence[Selected], option: str, patterns: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(s.name, pattern) for s in found):
            names = ", ".join(s.name for s in found[:3])
            raise BadOption(
                f"`{option}` names `{pattern}`, which matches no weight",
                hint=f"weights are called {names}, …",
            )
