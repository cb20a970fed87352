"""The roofline of an artifact: operators grouped by what they are, their limits, and what was measured."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optcc.backends.protocol import Backend, KernelUse, StepProfile
from optcc.compile.roofline.limits import Limits, machine_limits
from optcc.compile.roofline.sentences import sentences
from optcc.compile.roofline.work import Step, Work, works
from optcc.ir.module import Module
from optcc.ir.parse import parse_module
from optcc.runtime.executor import Batch, ModelSpec

_ROUNDS = 7
_LAYER = re.compile(r"\.\d+\.")


@dataclass(frozen=True)
class Load:
    """A kind of step: its name, how many requests, their tokens in the step, and their tokens before it."""

    name: str
    requests: int
    tokens: int
    before: int


LOADS = (
    Load("decode, 1 request", 1, 1, 127),
    Load("decode, 16 requests", 16, 1, 127),
    Load("prefill, 512 tokens", 1, 512, 0),
)


@dataclass(frozen=True)
class Row:
    """All operators of one kind in one kind of step.

    Attributes:
        load: the step.
        op: operator and form of its weights, as `quantized_linear int4`.
        name: of the weights, a `*` for the layer's number; empty without one.
        count: how many there are.
        bytes, operations: of all of them.
        bound: what limits them, `memory` or `compute`.
        limit_ms: the time that limit allows.
        measured_ms: the time they took; None where the backend can't say.
        share: limit divided by measured: 1 is as fast as this machine can be.
    """

    load: str
    op: str
    name: str
    count: int
    bytes: int
    operations: int
    bound: str
    limit_ms: float
    measured_ms: float | None
    share: float | None


def roofline(
    root: Path,
    spec: Mapping[str, Any],
    backend: Backend,
    threads: int,
    *,
    loads: Sequence[Load] = LOADS,
    limits: Limits | None = None,
    speed: Mapping[str, Any] | None = None,
    ledger: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure a decoder's operators and hold them against the machine.

    Args:
        root: the artifact.
        spec: the manifest's `spec`.
        backend: what runs it.
        threads: how many.
        loads: the steps; one longer than the context is shortened to it.
        limits: of the machine; None measures them, or takes those of today.
        speed, ledger: of the report, for a sentence on why it is faster than the original.

    Returns:
        `machine`, `steps` with the time of each load, `rows`, `fallbacks`, `sentences`.
    """
    machine = limits or machine_limits(threads)
    model = ModelSpec.from_json(spec)
    module = parse_module((root / "model.ir").read_text("utf-8"))
    fitted = [_fitted(load, model.max_context) for load in loads]
    batches = [_batch(load, model) for load in fitted]
    measured = backend.profile(root, spec, threads, batches, _ROUNDS)
    profiles: Sequence[StepProfile | None] = measured or [None] * len(fitted)
    rows: list[Row] = []
    steps: list[dict[str, Any]] = []
    for load, profile in zip(fitted, profiles, strict=True):
        found = _rows(module, load, model, machine, profile)
        rows += found
        steps.append(_step(load, found, profile))
    uses = backend.kernels(root)
    kernels = {_general(use.weight): use for use in uses}
    return {
        "machine": asdict(machine),
        "steps": steps,
        "rows": [asdict(row) for row in rows],
        "fallbacks": _fallbacks(uses),
        "sentences": sentences(
            rows, steps, sorted({u.reason for u in kernels.values() if u.reason}), speed, ledger
        ),
    }


def _fitted(load: Load, longest: int) -> Load:
    tokens = min(load.tokens, longest)
    before = min(load.before, longest - tokens)
    name = load.name.replace(f"{load.tokens} tokens", f"{tokens} tokens")
    return Load(name, load.requests, tokens, before)


def _batch(load: Load, model: ModelSpec) -> Batch:
    """The step's inputs: seeded random tokens, every request with blocks of its own."""
    length, each = load.before + load.tokens, model.blocks_for(load.before + load.tokens)
    generator = np.random.Generator(np.random.Philox(11))
    rows = load.requests * load.tokens
    return Batch(
        token_ids=generator.integers(0, model.vocab, rows, dtype=np.int64),
        positions=np.tile(np.arange(load.before, length, dtype=np.int64), load.requests),
        query_starts=np.arange(load.requests + 1, dtype=np.int32) * np.int32(load.tokens),
        kv_lengths=np.full(load.requests, length, np.int32),
        block_table=np.arange(load.requests * each, dtype=np.int32).reshape(load.requests, each),
        wanted_rows=np.arange(1, load.requests + 1, dtype=np.int64) * load.tokens - 1,
    )


def _rows(
    module: Module, load: Load, model: ModelSpec, machine: Limits, profile: StepProfile | None
) -> list[Row]:
    step = Step(load.requests, load.tokens, load.before + load.tokens)
    groups: dict[tuple[str, str], list[Work]] = {}
    for work in works(module, step, model.block_size):
        groups.setdefault((f"{work.operator} {work.form}".strip(), _general(work.weight)), []).append(work)
    return [_row(load, op, name, group, machine, profile) for (op, name), group in groups.items()]


def _row(
    load: Load, op: str, name: str, group: Sequence[Work], machine: Limits, profile: StepProfile | None
) -> Row:
    size, count = sum(w.bytes for w in group), sum(w.operations for w in group)
    rate = machine.int8_gops if group[0].integer else machine.fp32_gops
    memory, compute = size / machine.read_gb_s / 1e6, count / rate / 1e6
    limit = max(memory, compute)
    measured = None if profile is None else 1e3 * sum(profile.nodes.get(w.node, 0.0) for w in group)
    return Row(
        load.name,
        op,
        name,
        len(group),
        size,
        count,
        "memory" if memory >= compute else "compute",
        limit,
        measured or None,
        limit / measured if measured else None,
    )


def _step(load: Load, rows: Sequence[Row], profile: StepProfile | None) -> dict[str, Any]:
    """The whole step: its time, what of it our rows explain, and the sum of their limits."""
    limit = sum(row.limit_ms for row in rows)
    measured = None if profile is None else 1e3 * profile.seconds
    return {
        **asdict(load),
        "limit_ms": limit,
        "measured_ms": measured,
        "share": limit / measured if measured else None,
        "unexplained_ms": None if profile is None else 1e3 * profile.outside,
    }


def _general(weight: str) -> str:
    """`model.layers.3.mlp.down_proj.weight` -> `layers.*.mlp.down_proj`."""
    return _LAYER.sub(".*.", weight.removesuffix(".packed")).removesuffix(".weight").removeprefix("model.")


def _fallbacks(uses: Sequence[KernelUse]) -> list[dict[str, Any]]:
    """Operators over quantized weights that have no kernel of their own, by reason."""
    found: dict[tuple[str, str, str], int] = {}
    for use in uses:
        if use.reason:
            key = (_general(use.weight), use.kernel, use.reason)
            found[key] = found.get(key, 0) + 1
    return [
        {"name": name, "kernel": kernel, "reason": reason, "count": n}
        for (name, kernel, reason), n in found.items()
    ]
