"""Counts: what the model's configuration implies against what the passes found; a gap has its reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optcc.ir.module import Module
from optcc.pm.instruments import PassRecord

_FOUND = {
    "attentions": (
        "optcc.attention.default",
        "optcc.paged_attention.default",
        "optcc.masked_attention.default",
    ),
    "rms_norms": ("optcc.rms_norm.default", "optcc.add_rms_norm.default"),
    "layer_norms": ("aten.layer_norm.default",),
    "ropes": ("optcc.rope.default",),
    "gated_mlps": ("optcc.gated_activation.default",),
}
_PASSES = {
    "rms_norms": ("canonicalize.norm", "fuse.add-rms-norm"),
    "ropes": ("canonicalize.rope",),
    "gated_mlps": ("fuse.gated-mlp",),
}


@dataclass(frozen=True)
class FusionCount:
    """One kind of operator.

    Attributes:
        kind: such as `ropes`.
        expected: what the configuration implies.
        found: how many operators of this kind the final graph has.
        reasons: of a shortfall, why rules nearly applied and didn't; empty when the counts agree.
    """

    kind: str
    expected: int
    found: int
    reasons: tuple[str, ...]


def count_fusions(module: Module, records: Sequence[PassRecord]) -> list[FusionCount]:
    """Compare the module with the `facts` its front end counted."""
    facts = module.attrs.get("facts")
    if not isinstance(facts, Mapping):
        return []
    targets = [str(n.target) for n in module.nodes() if n.op == "call_function"]
    rows = []
    for kind, names in _FOUND.items():
        expected = facts.get(kind)
        if not isinstance(expected, int):
            continue
        found = sum(t in names for t in targets)
        rows.append(FusionCount(kind, expected, found, () if found >= expected else _reasons(kind, records)))
    return rows


def _reasons(kind: str, records: Sequence[PassRecord]) -> tuple[str, ...]:
    ran = {row.step.split("{")[0] for row in records}
    wanted = _PASSES.get(kind, ())
    missing = [f"the recipe doesn't list {name}" for name in wanted if name not in ran]
    near = [
        f"{miss.rule} at {miss.source or '%' + miss.node}: {miss.reason}"
        for row in records
        if row.step.split("{")[0] in wanted
        for miss in row.misses
    ]
    found = tuple(dict.fromkeys([*missing, *near]))
    return found[:8] or ("no place in the graph looks like it",)
