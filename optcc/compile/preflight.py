"""Everything that can be refused before a weight is read: all problems at once."""

from __future__ import annotations

from pathlib import Path

from optcc.backends.protocol import Backend
from optcc.errors import OptccError, UnsupportedOp
from optcc.ir.module import Module, source_of
from optcc.pm.context import Context
from optcc.pm.passes import Pass
from optcc.quant.kv import KvPass
from optcc.quant.weight_pass import PackingPass

_SHOWN = 12


def preflight(module: Module, backend: Backend, quantize: tuple[Pass, ...], base: Path) -> None:
    """Check a canonical module against what comes next.

    Args:
        module: canonical.
        backend: what will take it.
        quantize: the passes of the quantize stage.
        base: where relative scheme paths start.

    Raises:
        UnsupportedOp: every operator the backend refuses, with reason and source line.
        GroupSize: every weight a group doesn't divide.
        UnknownScheme: no such scheme.
        PreconditionFailed: a quantized KV cache for a model without attention.
    """
    problems: list[OptccError] = []
    taken: set[str] = set()
    for step in quantize:
        if isinstance(step, PackingPass):
            try:
                taken |= {s.name for s in step.select(module, base, taken)}
            except OptccError as error:
                problems.append(error)
    try:
        refused = unsupported(_with_kv(module, quantize, base), backend)
    except OptccError as error:
        problems.append(error)
        refused = unsupported(module, backend)
    if refused:
        problems.append(_unsupported_error(refused, backend))
    if len(problems) == 1:
        raise problems[0]
    if problems:
        first = problems[0]
        rest = "; ".join(f"[{p.code}] {p.what}" for p in problems[1:])
        raise type(first)(f"{first.what}; and also: {rest}", where=first.where, hint=first.hint)


def _with_kv(module: Module, quantize: tuple[Pass, ...], base: Path) -> Module:
    """The module as passes for the KV cache will leave it, so that a backend can refuse the format; reads no weight."""
    steps = [step for step in quantize if isinstance(step, KvPass)]
    if not steps:
        return module
    changed = module.clone()
    for step in steps:
        step.run(changed, Context(base=base))
    return changed


def unsupported(module: Module, backend: Backend) -> dict[tuple[str, str], list[str]]:
    """(operator, reason) -> the places in the user's source, for every node the backend refuses."""
    found: dict[tuple[str, str], list[str]] = {}
    for node in module.nodes():
        if node.op != "call_function":
            continue
        reason = backend.supports(node, module)
        if reason:
            found.setdefault((str(node.target), reason), []).append(source_of(node) or f"%{node.name}")
    return found


def _unsupported_error(refused: dict[tuple[str, str], list[str]], backend: Backend) -> UnsupportedOp:
    lines = [
        f"{target} ({reason}) at {', '.join(dict.fromkeys(places))}"
        for (target, reason), places in refused.items()
    ]
    more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    first = next(iter(refused.values()))[0]
    return UnsupportedOp(
        f"the backend {backend.name} can't run {len(refused)} kinds of operator: "
        + "; ".join(lines[:_SHOWN])
        + more,
        where=first,
        hint="write these lines with other operators, or compile for the backend `reference`, which runs everything",
    )
