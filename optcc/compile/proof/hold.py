"""Hold what a module computes behind some passes to what it computed before, and to their contract."""

from __future__ import annotations

from dataclasses import replace

from optcc.compile.proof.data import ProofData
from optcc.compile.proof.measure import Figure, Outputs, divergence, measure
from optcc.compile.proof.run import rounds, run_all
from optcc.ir.module import Module
from optcc.pm.contract import Contract


def hold(
    contract: Contract,
    before: Module,
    after: Module,
    outputs: tuple[Outputs, Outputs],
    data: ProofData,
    limit: float | None,
) -> Figure:
    """The contract, measured.

    Where activations are rounded and a tolerance is not kept, both modules run once more without that rounding: it
    turns differences of 1e-7 into differences of a level, and those into others. The tolerance holds without it then,
    and what the rounding makes of it must be within what quantization may cost at all.

    Args:
        contract: of the passes between the two.
        before, after: the modules.
        outputs: of both.
        data: that they ran on.
        limit: KL in nats per row that the recipe allows; None for none.
    """
    figure = measure(contract, *outputs, data.units)
    if contract.kind != "tolerance" or figure.outcome != "fail" or data.units is None:
        return figure
    if not (rounds(before) and rounds(after)):
        return figure
    redrawn = divergence(*outputs, data.units)
    if limit is not None and not redrawn.value <= limit:
        return figure
    left, right = (run_all(module, data.batches, rounding=False) for module in (before, after))
    return replace(measure(contract, left, right, data.units), redrawn=redrawn.value)
