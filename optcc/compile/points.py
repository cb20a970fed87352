"""The modules of one pipeline, at any point of it: from the pass cache, or made and put there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optcc.compile.job import CompileOptions, Job
from optcc.compile.progress import Progress
from optcc.frontend import LoadOptions, ModelSource
from optcc.ir.module import Module
from optcc.pm.passes import Pass
from optcc.recipe import Recipe


class Points:
    """A model's modules between the passes of a recipe; point i is after i passes, 0 the captured module.

    Use it within `open_points`.
    """

    def __init__(self, job: Job, model: str) -> None:
        self._job = job
        self.recipe = job.recipe
        self.backend, self.plan = job.plan()
        self.source: ModelSource = job.resolve(model)
        self.load: LoadOptions = job.load
        self.threads = job.thread_count
        self.steps: tuple[Pass, ...] = self.plan.pipeline.passes
        self.done = 0
        """How many passes had ended when a module was last made."""
        self._known: dict[int, Module] = {}

    @property
    def canonical(self) -> int:
        """The point at which weights begin to be packed."""
        return self.plan.preflight_at

    def at(self, index: int) -> Module:
        """The module after the first `index` passes; not to be changed.

        Raises:
            PassFailed: one of them fails; and all that a compile raises.
        """
        if index in self._known:
            return self._known[index]
        job = Job(self.recipe, self._job.options, self._job.progress)
        try:
            self._known[index] = job.passes(self.source, self.plan, self.backend, index)
        finally:
            self.done = len(job.record.rows)
        return self._known[index]

    def limits(self) -> dict[str, float]:
        """The recipe's limits over its schemes' defaults."""
        return self._job.limits(self.plan)

    def line_of(self, index: int) -> str | None:
        """Where the recipe names the pass at this place; None for a backend's own."""
        entries = [entry for stage in self.recipe.passes.values() for entry in stage]
        return str(entries[index].where) if index < len(entries) and entries[index].where.file else None


@contextmanager
def open_points(model: str, recipe: Recipe, cache: Path | None, progress: Progress) -> Iterator[Points]:
    """Points of a model under a recipe; the caches are held and the thread count is set until the block ends.

    Args:
        model: as of `compile_model`.
        recipe: resolved.
        cache: where passes are kept. None keeps nothing, and every point is made anew.
        progress: told what happens.
    """
    job = Job(recipe, CompileOptions(cache=cache, speed=False), progress)
    with job.caches(), job.threads():
        yield Points(job, model)
