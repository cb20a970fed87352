"""Pass: a module in, the same module changed out.

A pass is a frozen dataclass; its fields are its options. Its id comes from where it lives: `optcc/passes/fuse/qkv.py`
is `fuse.qkv`. What goes in satisfies `check_ir`, and so must what comes out; in between anything goes. `run` returns
whether it changed the module, and that is verified.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from optcc.ir.module import Module
from optcc.ir.rewrite import RewriteLog, Rule, apply_rules
from optcc.pm.context import Context
from optcc.pm.contract import Contract, tolerance
from optcc.pm.options import show_options

_ROOT = "optcc.passes."


def _id_from_module(module: str) -> str:
    return module.removeprefix(_ROOT).replace("_", "-") if module.startswith(_ROOT) else ""


@dataclass(frozen=True)
class Pass:
    """One transformation of a module."""

    id: ClassVar[str] = ""
    file: ClassVar[Path | None] = None
    """Where a pass named `file.py:Class` was read from."""
    calibrates: ClassVar[bool] = False
    """Whether it reads `Context.calibration`."""
    contract: ClassVar[Contract] = tolerance()
    """What it promises about the values the model computes."""

    def __init_subclass__(cls) -> None:
        if not cls.__dict__.get("id"):
            cls.id = _id_from_module(cls.__module__) or cls.__name__

    def run(self, module: Module, ctx: Context) -> bool:
        """Change `module` in place; return whether anything changed."""
        raise TypeError(f"{type(self).__name__} does not define run()")

    def reads(self, base: Path) -> tuple[Path, ...]:
        """Files whose content the result depends on, besides the module; part of the cache key."""
        return ()

    def promise(self, base: Path) -> Contract:
        """The contract of this instance; a pass whose options decide it overrides this.

        Args:
            base: directory that paths in options are relative to.
        """
        return self.contract

    def __str__(self) -> str:
        return self.id + show_options(self)


@dataclass(frozen=True)
class RewritePass(Pass):
    """A pass made of rewrite rules, applied in sweeps until nothing changes.

    Attributes:
        rules: tried in order at every node.
        sweeps: an upper bound, so that rules that undo each other are an error instead of a hang.
    """

    rules: ClassVar[tuple[Rule, ...]] = ()
    sweeps: ClassVar[int] = 64

    def run(self, module: Module, ctx: Context) -> bool:
        """Apply the rules until a sweep changes nothing."""
        total = RewriteLog()
        for _ in range(self.sweeps):
            log = apply_rules(module, self.rules)
            total.misses = []
            total.merge(log)
            if not any(log.hits.values()):
                ctx.rewrites.merge(total)
                return any(total.hits.values())
        raise RuntimeError(f"the rules of {self.id} still change the graph after {self.sweeps} sweeps")
