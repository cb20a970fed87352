"""The pass manager, and the public interface for writing passes.

    from dataclasses import dataclass
    from optcc.pm import Context, Module, Pass

    @dataclass(frozen=True)
    class DropNothing(Pass):
        \"\"\"Change nothing.\"\"\"

        def run(self, module: Module, ctx: Context) -> bool:
            return False

A pass in `passes/` is found by its path; one of your own is named `path/to/file.py:ClassName` in a recipe.
"""

from optcc.ir.builder import Builder
from optcc.ir.module import Module
from optcc.ir.pattern import Const, Either, Match, Op, Var, Weight, either, op
from optcc.ir.rewrite import Replacement, Rule
from optcc.pm.context import Context
from optcc.pm.contract import EXACT, Contract, kl, tolerance
from optcc.pm.discover import build_pass, load_pass, pass_ids
from optcc.pm.passes import Pass, RewritePass
from optcc.pm.pipeline import Fix, Pipeline
from optcc.pm.run import run_pipeline
from optcc.pm.text import parse_pipeline

__all__ = [
    "EXACT",
    "Builder",
    "Const",
    "Context",
    "Contract",
    "Either",
    "Fix",
    "Match",
    "Module",
    "Op",
    "Pass",
    "Pipeline",
    "Replacement",
    "RewritePass",
    "Rule",
    "Var",
    "Weight",
    "build_pass",
    "either",
    "kl",
    "load_pass",
    "op",
    "parse_pipeline",
    "pass_ids",
    "run_pipeline",
    "tolerance",
]
