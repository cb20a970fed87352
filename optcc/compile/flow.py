"""One compile, start to end. `compile_model` is the map: each line is a stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from optcc.artifact import ArtifactWriter
from optcc.compile.job import CompileOptions, Job
from optcc.compile.lock import LOCK
from optcc.compile.progress import Progress, Silent
from optcc.compile.report import Report, report_page
from optcc.recipe import Recipe


@dataclass(frozen=True)
class CompileResult:
    """Where the artifact is and what the report says."""

    artifact: Path
    report: Report

    @property
    def ok(self) -> bool:
        """Whether every limit passed (or nothing was checked)."""
        return self.report.status != "failed"


def compile_model(
    model: str,
    recipe: Recipe,
    out: Path,
    options: CompileOptions | None = None,
    progress: Progress | None = None,
) -> CompileResult:
    """Compile a model.

    Args:
        model: directory, `.gguf` file, hub id, or `package.module:factory`.
        recipe: resolved.
        out: directory of the artifact; an artifact that is there is replaced.
        options: cache and dumps.
        progress: told what happens.

    Returns:
        The artifact and its report. A failed gate still writes the artifact, marked as failed.

    Raises:
        OptccError: any of them, before anything is left at `out`.
    """
    job = Job(recipe, options or CompileOptions(), progress or Silent(), out)
    backend, plan = job.plan()
    with job.caches(), job.threads():
        source = job.resolve(model)
        module = job.passes(source, plan, backend)
        with ArtifactWriter(out, predicted_bytes=module.weight_bytes()) as writer:
            manifest, ledger = job.lower(backend, plan, module, source, writer)
            job.prove(backend, module, writer.root)
            with job.open(writer.root, manifest, source) as pair:
                checked = job.check(pair, plan)
                speed = job.speed(pair)
                fast = job.fast_enough(pair)
                roofline = job.roofline(pair, backend, ledger, speed)
            report = job.report(module, backend, ledger, checked, speed, fast, roofline, source, manifest)
            writer.write_report("report.json", report.to_json())
            writer.write_report("report.html", report_page(report, manifest))
            writer.write_report(LOCK, job.lock(model, source, backend, plan, manifest, checked))
            writer.commit(manifest)
    return CompileResult(out, report)
