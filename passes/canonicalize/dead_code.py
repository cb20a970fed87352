"""Erase what no result needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optcc.ir.module import Module
from optcc.pm.context import Context
from optcc.pm.contract import EXACT, Contract
from optcc.pm.passes import Pass


@dataclass(frozen=True)
class DeadCode(Pass):
    """Erase nodes whose values nobody reads, and weights that no graph reads.

    Before: anything. After: every node reaches a result or changes an input; every weight is read.
    """

    contract: ClassVar[Contract] = EXACT

    def run(self, module: Module, ctx: Context) -> bool:
        """One backward walk over every graph."""
        return module.tidy()
