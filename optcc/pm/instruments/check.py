"""Check: the module is well formed after every pass, and a pass that says it changed nothing did not."""

from __future__ import annotations

from optcc.errors import IRCheckFailed
from optcc.ir.check import check_ir
from optcc.ir.module import Module
from optcc.ir.opset import FORMS
from optcc.ir.text import module_text
from optcc.pm.context import Context
from optcc.pm.passes import Pass


class Check:
    """On by default in every compile."""

    def __init__(self) -> None:
        self._before = ""

    def before(self, step: Pass, module: Module, ctx: Context) -> bool:
        """Remember the text."""
        self._before = module_text(module)
        return True

    def after(self, step: Pass, module: Module, ctx: Context, changed: bool) -> None:
        """Check every rule of the IR, and the pass's word.

        Raises:
            IRCheckFailed: a rule is broken.
        """
        check_ir(module, FORMS.get(str(module.attrs.get("form"))))
        differs = module_text(module) != self._before
        if changed != differs:
            fact = (
                "changed the module and says it didn't"
                if differs
                else "says it changed the module and didn't"
            )
            raise IRCheckFailed(f"`{step}` {fact}")
