"""What a user needs to know, said in sentences that rules make of measured figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optcc.compile.roofline.build import Row

_WORTH_TELLING = 0.05
"""Share of a step from which on a group of operators gets a sentence."""


def sentences(
    rows: Sequence[Row],
    steps: Sequence[Mapping[str, Any]],
    reasons: Sequence[str],
    speed: Mapping[str, Any] | None,
    ledger: Mapping[str, Any] | None,
) -> list[str]:
    """One for the largest part of every step, one for what bounds it, one for each fallback, one for the original.

    Args:
        rows: of all steps.
        steps: with their times.
        reasons: why operators over quantized weights have no kernel of their own.
        speed, ledger: of the report, if they are known.
    """
    found: list[str] = []
    for step in steps:
        if step["measured_ms"]:
            found += _of_step([r for r in rows if r.load == step["name"]], step)
    found += _bounds(rows, steps)
    found += [f"some operators fall back to a slower kernel: {reason}" for reason in reasons]
    if speed and ledger:
        found += _of_original(speed, ledger)
    return found


def _of_step(rows: Sequence[Row], step: Mapping[str, Any]) -> list[str]:
    """The largest groups of a step: their share of its time, and of the limit that bounds them."""
    groups = _by_op(rows)
    told = []
    for op, group in sorted(groups.items(), key=lambda item: -_time(item[1]))[:2]:
        part = _time(group) / step["measured_ms"]
        if part < _WORTH_TELLING:
            continue
        limit = sum(r.limit_ms for r in group)
        memory = sum(r.limit_ms for r in group if r.bound == "memory") >= limit / 2
        what = "the memory's bandwidth" if memory else "the processor's arithmetic"
        count = sum(r.count for r in group)
        told.append(
            f"{step['name']}: {_counted(count, op)} {part:.0%} of a step of {step['measured_ms']:.1f} ms "
            f"at {limit / _time(group):.0%} of {what}"
        )
    rest = step["unexplained_ms"] / step["measured_ms"]
    if rest >= 2 * _WORTH_TELLING:
        told.append(
            f"{step['name']}: {rest:.0%} of the step is spent between operators or in those the runtime added"
        )
    return told


def _bounds(rows: Sequence[Row], steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where linears change from being bound by memory to being bound by arithmetic."""
    told = []
    for op in sorted({r.op for r in rows if "linear" in r.op}):
        bound = {}
        for step in steps:
            group = [r for r in rows if r.op == op and r.load == step["name"]]
            limit = sum(r.limit_ms for r in group)
            if limit:
                memory = sum(r.limit_ms for r in group if r.bound == "memory")
                bound[step["name"]] = "memory" if memory >= limit / 2 else "compute"
        compute = [name for name, kind in bound.items() if kind == "compute"]
        if compute and len(compute) < len(bound):
            told.append(
                f"the {_plural(op)} are bound by arithmetic at {' and '.join(compute)}: "
                "there, fewer bytes make them no faster"
            )
    return told


def _of_original(speed: Mapping[str, Any], ledger: Mapping[str, Any]) -> list[str]:
    ratio = speed["ratio"]["decode"]
    less = ledger["original_bytes"] / max(ledger["stored_bytes"], 1)
    if ratio >= 1:
        return [
            f"decode is {ratio:.1f}x as fast as the original's own code; the weights it reads are {less:.1f}x smaller"
        ]
    return [
        f"decode is slower than the original's own code ({ratio:.2f}x), though its weights are {less:.1f}x smaller"
    ]


def _by_op(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.measured_ms:
            found.setdefault(row.op, []).append(row)
    return found


def _time(group: Sequence[Row]) -> float:
    return float(sum(r.measured_ms or 0.0 for r in group))


def _counted(count: int, op: str) -> str:
    """`the 90 int4 linears take`, `the int8 linear takes`."""
    return f"the {count} {_plural(op)} take" if count > 1 else f"the {_plural(op).removesuffix('s')} takes"


def _plural(op: str) -> str:
    """`quantized_linear int4` -> `int4 linears`."""
    name, _, form = op.partition(" ")
    words = name.removeprefix("quantized_").replace("_", " ")
    return f"{form} {words}s".strip() if "linear" in words else f"{words} operators"
