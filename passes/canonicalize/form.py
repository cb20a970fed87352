"""Declare that the graph is in canonical form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optcc.ir.module import Module
from optcc.ir.opset import CANONICAL
from optcc.pm.context import Context
from optcc.pm.contract import EXACT, Contract
from optcc.pm.passes import Pass


@dataclass(frozen=True)
class Form(Pass):
    """Promise that every operator has its one spelling; the last pass of the stage.

    Before: the passes of this stage have run. After: `form` is `canonical`, and every later check holds the
    graph to the operator set of that name. A form that promises more (`serving`) is kept.

    Raises:
        IRCheckFailed: an operator that should have been rewritten is left, with its source line.
    """

    contract: ClassVar[Contract] = EXACT

    def run(self, module: Module, ctx: Context) -> bool:
        """Check the operator set and set the attribute."""
        for node in module.nodes():
            if node.op == "call_function":
                CANONICAL.require(node)
        if "form" in module.attrs:
            return False
        module.attrs["form"] = "canonical"
        return True
