"""Several linears of one input as one linear over stacked weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from optcc.ir.builder import Builder
from optcc.ir.module import Json, Module
from optcc.ir.pattern import normalized
from optcc.ir.text import target_name

LINEAR, QUANTIZED = "aten.linear.default", "optcc.quantized_linear.default"
LINEARS = f"{LINEAR} | {QUANTIZED}"


def stacked_operands(linear: fx.Node) -> dict[str, Any]:
    """The operands that hold one row (or number) per output channel, by name."""
    values, names, _ = normalized(linear)
    stacked = (
        ("packed", "scale", "zero", "tensor_scale", "bias")
        if target_name(linear) == QUANTIZED
        else ("weight", "bias")
    )
    return {name: value for name, value in zip(names, values, strict=True) if name in stacked}


def _settings(linear: fx.Node) -> list[Any]:
    """Everything else that must agree: for quantized linears format, groups and activation format."""
    values, _, _ = normalized(linear)
    return values[6:] if target_name(linear) == QUANTIZED else []


def why_not_together(linears: Sequence[fx.Node]) -> str | None:
    """Why these linears can't become one, or None."""
    first = linears[0]
    for other in linears[1:]:
        if target_name(other) != target_name(first) or _settings(other) != _settings(first):
            return f"%{first.name} and %{other.name} have different weight or activation formats"
        if other.args[0] is not first.args[0]:
            return f"%{first.name} and %{other.name} read different inputs"
    operands = [stacked_operands(linear) for linear in linears]
    return _why_not_stored(linears, operands) or _why_scales_differ(linears, operands)


def _why_not_stored(linears: Sequence[fx.Node], operands: Sequence[dict[str, Any]]) -> str | None:
    """Why the operands can't be put one below the other, or None."""
    for linear, own in zip(linears, operands, strict=True):
        for name, value in own.items():
            if value is None:
                continue
            if not isinstance(value, fx.Node) or value.op != "get_attr":
                return f"the {name} of %{linear.name} is not a stored weight"
            if len(value.users) != 1:
                return f"@{value.target} is shared with {len(value.users) - 1} other reader(s)"
    for name in operands[0]:
        given = [own[name] for own in operands if own[name] is not None]
        if name == "zero" and 0 < len(given) < len(operands):
            return "some weights have zero points and some don't"
        kinds = {value.meta["val"].dtype for value in given}
        if len(kinds) > 1:
            return f"the {name}s have different types"
    return None


def _why_scales_differ(linears: Sequence[fx.Node], operands: Sequence[dict[str, Any]]) -> str | None:
    """Scales that several rows share may not reach across the seam."""
    if target_name(linears[0]) != QUANTIZED:
        return None
    if any(own["tensor_scale"] is not None for own in operands):
        return "each weight has a scale of its own for the whole tensor"
    block = int(normalized(linears[0])[0][8])
    if block == 0:
        return "each weight has one scale for all its rows"
    split = next((linear for linear in linears[:-1] if _rows(linear) % block), None)
    return f"%{split.name} ends inside a block of {block} rows" if split is not None else None


def merge(build: Builder, linears: Sequence[fx.Node]) -> fx.Node:
    """One linear that computes all of them side by side; the stacked weights are stored, the single ones die.

    A missing bias becomes zeros where another linear has one. Only these weights are in memory at a time.
    """
    module, first = build.module, linears[0]
    operands = [stacked_operands(linear) for linear in linears]
    made: dict[str, fx.Node | None] = {}
    names = {
        "weight" if "weight" in operands[0] else "packed": [
            str(_target(o, "weight", "packed")) for o in operands
        ]
    }
    base = next(iter(names.values()))
    for name in operands[0]:
        given = [own[name] for own in operands]
        if all(value is None for value in given):
            made[name] = None
            continue
        title = joined_name([str(value.target) for value in given if value is not None])
        if any(value is None for value in given):
            title = joined_name(base).rpartition(".")[0] + ".bias"
        node = _stack(build, title, given, [_rows(linear) for linear in linears])
        made[name] = node
        if name in ("packed", "weight", "bias"):
            _note_stack(module, node, given, [_rows(linear) for linear in linears])
    _join_schemes(module, base)
    values, all_names, _ = normalized(first)
    args = [made.get(name, value) for name, value in zip(all_names, values, strict=True)]
    while args and args[-1] is None and target_name(first) == LINEAR:
        args.pop()
    assert callable(first.target)
    return build.call(first.target, *args)


def _target(operands: dict[str, Any], *names: str) -> object:
    return next(operands[n].target for n in names if operands.get(n) is not None)


def _rows(linear: fx.Node) -> int:
    return int(linear.meta["val"].shape[-1])


def _stack(build: Builder, title: str, nodes: Sequence[fx.Node | None], rows: Sequence[int]) -> fx.Node:
    """Tensors one below the other; what is stored narrow and read wide stays stored narrow."""
    weights = build.module.weights
    refs = [weights.refs[str(n.target)] for n in nodes if n is not None]
    kind = refs[0].read_dtype
    lazily = len(refs) == len(nodes) and len({(r.dtype, r.cast_to) for r in refs}) == 1
    if lazily and refs[0].cast_to is not None:
        made = build.new_weight(title, torch.cat([ref.map() for ref in refs]))
        weights.cast(str(made.target), kind)
        build.module.infer(made)
        return made
    parts = [
        weights[str(n.target)] if n is not None else torch.zeros(count, dtype=kind)
        for n, count in zip(nodes, rows, strict=True)
    ]
    return build.new_weight(title, torch.cat(parts))


def _note_stack(module: Module, made: fx.Node, parts: Sequence[fx.Node | None], rows: Sequence[int]) -> None:
    """Write down whose rows are where, so that an export can take the stack apart. Zeros in place of a missing bias
    have no name."""
    record = module.attrs.get("stacked", {})
    assert isinstance(record, dict)
    names = ["" if part is None else str(part.target).removesuffix(".packed") for part in parts]
    stack: list[Json] = [[name, count] for name, count in zip(names, rows, strict=True)]
    module.attrs["stacked"] = {**record, str(made.target).removesuffix(".packed"): stack}


def _join_schemes(module: Module, names: Sequence[str]) -> None:
    """The stacked weight is stored as its parts were."""
    schemes = module.attrs.get("schemes")
    known = [name.removesuffix(".packed") for name in names]
    if not isinstance(schemes, dict) or not all(name in schemes for name in known):
        return
    joined = joined_name(names).removesuffix(".packed")
    kept = {name: scheme for name, scheme in schemes.items() if name not in known}
    module.attrs["schemes"] = {**kept, joined: schemes[known[0]]}


def joined_name(names: Sequence[str]) -> str:
    """`a.q_proj.weight, a.k_proj.weight, a.v_proj.weight` -> `a.qkv_proj.weight`."""
    parts = [name.split(".") for name in names]
    head, tail = _common(parts), _common([p[::-1] for p in parts])
    tail = min(tail, min(len(p) for p in parts) - head)
    middles = [".".join(p[head : len(p) - tail]) for p in parts]
    end = parts[0][len(parts[0]) - tail :] if tail else []
    return ".".join([*parts[0][:head], *filter(None, [_joined_words(middles)]), *end])


def _joined_words(words: Sequence[str]) -> str:
    """`q_proj, k_proj` -> `qk_proj`; `gate_proj, up_proj` -> `gate_up_proj`."""
    pieces = [word.split("_") for word in words]
    tail = min(_common([p[::-1] for p in pieces]), min(len(p) for p in pieces) - 1)
    stems = ["_".join(p[: len(p) - tail]) for p in pieces]
    stem = "".join(stems) if all(len(s) == 1 for s in stems) else "_".join(stems)
    return "_".join([stem, *(pieces[0][len(pieces[0]) - tail :] if tail else [])])


def _common(sequences: Sequence[Sequence[str]]) -> int:
    """Length of the common beginning."""
    count = 0
    for column in zip(*sequences, strict=False):
        if len(set(column)) > 1:
            break
        count += 1
    return count
