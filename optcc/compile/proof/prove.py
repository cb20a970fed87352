"""Prove: an instrument that runs the module around every pass, or every stage, and holds it to its contract.

What a module computes after one pass is what it computes before the next: each is run once. Passes that changed
nothing cost nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from optcc.artifact.digest import canonical_json, sha256_bytes
from optcc.compile.proof.data import ProofData
from optcc.compile.proof.hold import hold
from optcc.compile.proof.locate import MovedNode, first_moved, most_moved
from optcc.compile.proof.measure import Figure
from optcc.compile.proof.run import Outputs, run_all
from optcc.errors import ContractBroken
from optcc.ir.module import Module
from optcc.pm.context import Context
from optcc.pm.contract import Contract, joined, kl
from optcc.pm.instruments import PassRecord, Record
from optcc.pm.passes import Pass

Every = Literal["each", "stages"]
_WORDS = {"moved": "of its deviation", "kl": "nats per token", "noise": "of the signal's power"}


class Prove:
    """Put it first among the instruments: then its time isn't the pass's.

    Args:
        data: what to run on.
        record: its last row gets the proof.
        base: directory of the recipe.
        limits: metric to limit, of the recipe and its schemes.
        every: hold each pass to its contract, or only what a stage's passes promise together.
    """

    def __init__(
        self, data: ProofData, record: Record, base: Path, limits: Mapping[str, float], every: Every
    ) -> None:
        self.data, self.every = data, every
        self.seconds = 0.0
        self._record, self._base, self._limits = record, base, limits
        self._kept: Module | None = None
        self._outputs: Outputs | None = None
        self._pending: list[Pass] = []

    @property
    def key(self) -> str:
        """What a proof depends on besides the module and the pass."""
        facts = {"data": self.data.digest, "every": self.every, "limits": dict(self._limits)}
        return sha256_bytes(canonical_json(facts))

    def has_proven(self, rows: Sequence[PassRecord]) -> bool:
        """Whether these passes, the last one included, were held to the same on the same data."""
        known = all(row.proof is not None and row.proof["key"] == self.key for row in rows)
        return known and (not rows or bool((rows[-1].proof or {})["held"]))

    def before(self, step: Pass, module: Module, ctx: Context) -> bool:
        """Keep what is there, to find the node that moved."""
        if self._kept is None:
            self._kept = module.clone()
        return True

    def after(self, step: Pass, module: Module, ctx: Context, changed: bool) -> None:
        """Hold the pass to its contract.

        Raises:
            ContractBroken: it broke it.
        """
        if changed:
            self._pending.append(step)
        self._record.rows[-1].proof = {"key": self.key, "contract": str(self.bound(step)), "held": False}
        if self.every == "each":
            self.settle(module)

    def settle(self, module: Module) -> None:
        """Hold all passes since the last time to what they promise together; the last one's row gets the proof.

        Raises:
            ContractBroken: they broke it.
        """
        steps, self._pending = self._pending, []
        row = self._record.rows[-1] if self._record.rows else None
        if not steps or self._kept is None:
            if row is not None and row.proof is not None:
                row.proof = {**row.proof, "held": True}
            return
        began = time.perf_counter()
        if self._outputs is None:
            self._outputs = run_all(self._kept, self.data.batches)
        outputs = run_all(module, self.data.batches)
        contract = joined([self.bound(step) for step in steps])
        both = (self._outputs, outputs)
        figure = hold(contract, self._kept, module, both, self.data, self._limits.get("kl"))
        if figure.outcome == "fail":
            raise broken(steps, figure, self._find(figure, module))
        self._outputs, self._kept = outputs, module.clone()
        spent = time.perf_counter() - began
        self.seconds += spent
        assert row is not None
        row.proof = {
            "key": self.key,
            "held": True,
            "passes": [str(step) for step in steps],
            **figure.to_json(),
            "seconds": round(spent, 3),
        }

    def bound(self, step: Pass) -> Contract:
        """A pass's contract. A budget that the class leaves open is the recipe's limit, else that of its schemes."""
        promised = step.promise(self._base)
        if promised.kind != "kl" or step.contract.bound is not None:
            return promised
        if self.data.units is None:
            decibels = self._limits.get("sqnr")
            return kl(10 ** (-decibels / 10) if decibels is not None else None)
        return kl(self._limits.get("kl", promised.bound))

    def _find(self, figure: Figure, module: Module) -> MovedNode | None:
        assert self._kept is not None
        if figure.contract.kind == "kl":
            return most_moved(self._kept, module, self.data.batches[0])
        bound = max(figure.contract.bound or 0.0, 1e-7)
        return first_moved(self._kept, module, self.data.batches[0], bound, rounding=figure.redrawn is None)


def broken(steps: list[Pass], figure: Figure, node: MovedNode | None) -> ContractBroken:
    """The error for a contract that was broken."""
    names = ", ".join(f"`{step}`" for step in steps)
    words, found = _WORDS[figure.metric], figure.estimate
    interval = f" [{found.low:.3g}, {found.high:.3g}]" if found.method != "exact" else ""
    what = (
        f"{names} promised {figure.contract} and moved `{figure.output}` by "
        f"{found.value:.3g}{interval} {words}; the bound is {figure.contract.bound or 0:g}"
    )
    if node is not None:
        which = "what moved most is" if figure.contract.kind == "kl" else "the first value that moved is"
        what += f"; {which} {node}"
    return ContractBroken(
        what,
        where=(node.source or f"%{node.name}") if node else None,
        hint="leave the pass out, or declare what it may cost as its `contract` (docs/proof.md)",
    )


def proof_json(prove: Prove | None, mode: str, record: Record, lowered: Mapping[str, Any] | None) -> Any:
    """The report's key `proof`."""
    if prove is None:
        return {"mode": mode, "passes": [], "lowered": None}
    rows = [{"pass": row.step, "cached": row.cached, **(row.proof or {})} for row in record.rows]
    return {
        "mode": mode,
        "data": {
            "digest": prove.data.digest,
            "tokens": prove.data.tokens,
            "batches": len(prove.data.batches),
            "note": prove.data.note,
        },
        "seconds": round(prove.seconds, 3),
        "passes": [{k: v for k, v in row.items() if k != "key"} for row in rows],
        "lowered": lowered,
    }
