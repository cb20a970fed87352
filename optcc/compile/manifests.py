"""The manifest of what a compile makes: known before a weight is read, but for the hashes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from optcc import __version__
from optcc.artifact import Manifest, ModelRef
from optcc.compile.plan import Plan
from optcc.compile.spec import manifest_spec
from optcc.frontend import ModelSource
from optcc.ir.module import Module
from optcc.recipe import Recipe


def make_manifest(
    module: Module, recipe: Recipe, plan: Plan, source: ModelSource, minimum: Mapping[str, str]
) -> Manifest:
    """Without the table of files, which the writer fills in.

    Args:
        module: final.
        recipe, plan, source: what is compiled.
        minimum: oldest version of each package that runs it.

    Raises:
        PreconditionFailed: a decoder whose KV cache was never attached.
    """
    return Manifest(
        kind=str(module.attrs["kind"]),
        optcc_version=__version__,
        target=asdict(recipe.target),
        recipe=recipe.to_json(),
        pipeline=plan.text(),
        spec=manifest_spec(module),
        model=ModelRef(source.name, source.digest),
        min_versions=dict(minimum),
    )
