"""What an instrument is."""

from __future__ import annotations

from typing import Protocol

from optcc.ir.module import Module
from optcc.pm.context import Context
from optcc.pm.passes import Pass


class Instrument(Protocol):
    """Called around every pass of a pipeline, in order before and in reverse order after."""

    def before(self, step: Pass, module: Module, ctx: Context) -> bool:
        """About to run `step`; returning False skips it."""
        ...

    def after(self, step: Pass, module: Module, ctx: Context, changed: bool) -> None:
        """`step` ran and said whether it changed the module."""
        ...
