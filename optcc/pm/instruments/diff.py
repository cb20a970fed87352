"""Diff: print what every pass changed, as a unified diff of the module's text."""

from __future__ import annotations

import difflib
from typing import TextIO

from optcc.ir.module import Module
from optcc.ir.text import module_text
from optcc.pm.context import Context
from optcc.pm.passes import Pass


class Diff:
    """Writes to `stream`; silent for passes that changed nothing."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._before = ""

    def before(self, step: Pass, module: Module, ctx: Context) -> bool:
        """Remember the text."""
        self._before = module_text(module)
        return True

    def after(self, step: Pass, module: Module, ctx: Context, changed: bool) -> None:
        """Print the difference."""
        old, new = self._before.splitlines(), module_text(module).splitlines()
        for line in difflib.unified_diff(old, new, f"before {step}", f"after {step}", lineterm="", n=1):
            self._stream.write(line + "\n")
