"""Run a pipeline under instruments."""

from __future__ import annotations

from collections.abc import Sequence

from optcc.errors import CannotWrite, OptccError, PassFailed
from optcc.ir.module import Module
from optcc.ir.rewrite import RewriteLog
from optcc.pm.context import Context
from optcc.pm.instruments.protocol import Instrument
from optcc.pm.passes import Pass
from optcc.pm.pipeline import Pipeline


def run_pipeline(
    module: Module, pipeline: Pipeline, ctx: Context, instruments: Sequence[Instrument] = ()
) -> bool:
    """Run the passes in order; returns whether any changed the module.

    Raises:
        PassFailed: a pass raised an error or left a module that breaks a rule; names the pass and those before it.
    """
    changed = False
    for index, step in enumerate(pipeline):
        before = Pipeline(pipeline.passes[:index])
        changed |= run_pass(module, step, ctx, instruments, after=str(before))
    return changed


def run_pass(
    module: Module, step: Pass, ctx: Context, instruments: Sequence[Instrument], after: str = ""
) -> bool:
    """Run one pass under instruments; returns whether it changed the module.

    Args:
        module: changed in place.
        step: the pass.
        ctx: its rewrites, notes and tables are cleared first.
        instruments: called before in order and after in reverse.
        after: text of the passes that ran before, for the error.
    """
    ctx.rewrites, ctx.notes, ctx.tables = RewriteLog(), [], {}
    wanted = [instrument.before(step, module, ctx) for instrument in instruments]
    if not all(wanted):
        return False
    try:
        changed = step.run(module, ctx)
        if changed:
            module.forget_erased()
        for instrument in reversed(instruments):
            instrument.after(step, module, ctx, changed)
    except (PassFailed, CannotWrite):
        raise
    except OptccError as error:
        # What the user can mend (a group size, a weight file) keeps its own code; a broken rule is the pass's fault.
        if error.code.startswith("E3") and error.code != "E304":
            raise _failed(step, after, error) from error
        raise
    except Exception as error:
        raise _failed(step, after, error) from error
    return changed


def _failed(step: Pass, after: str, error: Exception) -> PassFailed:
    place = f" after `{after}`" if after else ""
    cause = error.what if isinstance(error, OptccError) else f"{type(error).__name__}: {error}"
    where = error.where if isinstance(error, OptccError) else None
    return PassFailed(f"pass `{step}` failed{place}: {cause}", where=where)
