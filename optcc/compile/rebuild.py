"""The same bytes again: compile what an artifact's lock pins, and say exactly what differs before and after."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from optcc.artifact import Artifact, Manifest, SafetensorsIndex
from optcc.backends.registry import load_backend
from optcc.compile.flow import compile_model
from optcc.compile.job import CompileOptions
from optcc.compile.lock import Difference, differences, inputs, read_lock, surroundings
from optcc.compile.plan import Plan, make_plan
from optcc.compile.progress import Progress, Silent
from optcc.errors import IncompatibleArtifact
from optcc.frontend import LoadOptions, resolve
from optcc.recipe import Recipe, load_recipe

_NAMED = 5
_GIVEN = ("model", "recipe", "threads", "seeds")
_HERE = ("optcc", "python", "packages", "backend", "machine")


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuild came to.

    Attributes:
        before: what differed from the lock before anything was computed.
        after: what differs between the two artifacts: fields of the manifest, files, tensors, digests of data.
        was, now: digests of the manifests; `now` is empty when nothing was compiled.
    """

    before: tuple[Difference, ...]
    after: tuple[Difference, ...]
    was: str
    now: str

    @property
    def same(self) -> bool:
        """Whether both artifacts have the same bytes, report aside."""
        return self.was == self.now


@dataclass(frozen=True)
class Request:
    """A rebuild that can begin: the lock, the recipe, and what is known to differ.

    Attributes:
        artifact: the one that is rebuilt.
        lock: of it.
        model: path, id or factory of the model that will be compiled.
        recipe: as the manifest has it.
        before: what differs from the lock.
    """

    artifact: Artifact
    lock: Mapping[str, Any]
    model: str
    recipe: Recipe
    before: tuple[Difference, ...]


def request(root: Path, model: str | None, base: Path | None = None) -> Request:
    """Compare an artifact's lock with what is here. Computes nothing but hashes.

    Args:
        root: the artifact.
        model: where the model is now; None takes what the lock says.
        base: where the files are that the recipe names; None takes what the lock says.

    Raises:
        NotAnArtifact, CorruptArtifact: it can't be read.
        IncompatibleArtifact: it has no lock, or `model` is another model.
    """
    artifact = Artifact.open(root, force=True)
    lock = read_lock(artifact)
    reference = model or str(lock["model"]["reference"])
    recipe = pinned_recipe(artifact.manifest, base or Path(lock["recipe"]["base"]))
    load = LoadOptions(**dataclasses.asdict(recipe.model) | {"pooling": recipe.model.pooling or "none"})
    source = resolve(reference, load)
    if source.digest != lock["model"]["digest"]:
        here = {"model": inputs(source, reference, recipe, make_plan_of(recipe), 0)["model"]}
        files = [str(d) for d in differences(lock, here, ("model",)) if d.field.startswith("model.files")]
        raise IncompatibleArtifact(
            f"model.digest: {reference} is not the model that was compiled: {'; '.join(files) or source.digest}",
            where=str(root),
            hint=f"give the model with digest {lock['model']['digest']}",
        )
    source = dataclasses.replace(source, name=str(lock["model"]["name"]))
    backend = load_backend(recipe.target.backend)
    given = inputs(source, reference, recipe, make_plan_of(recipe), int(lock["threads"]))
    found = differences(lock, {**given, **surroundings(backend)}, (*_GIVEN, *_HERE))
    return Request(artifact, lock, reference, recipe, tuple(found))


def make_plan_of(recipe: Recipe) -> Plan:
    """The plan of a recipe on its own backend."""
    return make_plan(recipe, load_backend(recipe.target.backend))


def rebuild(
    asked: Request, out: Path, progress: Progress | None = None, cache: Path | None = None
) -> Rebuilt:
    """Compile again and compare.

    Args:
        asked: what `request` found.
        out: directory of the new artifact.
        progress: told what happens.
        cache: finished passes to take over; None computes everything anew, which is what proves something.

    Raises what `compile_model` raises.
    """
    lock = asked.lock
    options = CompileOptions(
        cache=cache, speed=False, model_name=str(lock["model"]["name"]), threads=int(lock["threads"])
    )
    compile_model(asked.model, asked.recipe, out, options, progress or Silent())
    again = Artifact.open(out, force=True, verify=False)
    found = [
        *manifest_differences(asked.artifact.manifest, again.manifest),
        *tensor_differences(asked.artifact, again),
        *differences(lock, read_lock(again), ("data",)),
    ]
    return Rebuilt(asked.before, tuple(found), asked.artifact.manifest.digest, again.manifest.digest)


def pinned_recipe(manifest: Manifest, base: Path) -> Recipe:
    """The recipe of a manifest, with paths relative to `base`. Raises RecipeField for one of another release."""
    with tempfile.TemporaryDirectory(prefix="optcc-rebuild-") as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(json.dumps(manifest.recipe))
        recipe = load_recipe(path)
    passes = {
        stage: tuple(dataclasses.replace(e, where=dataclasses.replace(e.where, base=base)) for e in entries)
        for stage, entries in recipe.passes.items()
    }
    return dataclasses.replace(recipe, base=Path(os.path.abspath(base)), passes=passes)


def manifest_differences(was: Manifest, now: Manifest) -> list[Difference]:
    """Fields and files that differ."""
    left, right = was.body(), now.body()
    return [
        Difference(d.field.removesuffix(".sha256"), d.was[:16], d.now[:16])
        if d.field.endswith(".sha256")
        else d
        for d in differences(left, right)
        if not (d.field.startswith("files.") and d.field.endswith(".bytes"))
    ]


def tensor_differences(was: Artifact, now: Artifact) -> list[Difference]:
    """Stored tensors whose bytes differ, a few by name; nothing when the files are equal."""
    name = "weights.safetensors"
    entries = [a.manifest.files.get(name) for a in (was, now)]
    if entries[0] == entries[1] or None in entries:
        return []
    left, right = was.weights(), now.weights()
    changed = [n for n in left.tensors if n in right.tensors and not _same_tensor(left, right, n)]
    found = [Difference(f"tensor {n}", "its bytes", "other bytes") for n in changed[:_NAMED]]
    if len(changed) > _NAMED:
        found.append(Difference(f"{len(changed) - _NAMED} further tensors", "their bytes", "other bytes"))
    return found


def _same_tensor(left: SafetensorsIndex, right: SafetensorsIndex, name: str) -> bool:
    a, b = left.tensors[name], right.tensors[name]
    return (a.dtype, tuple(a.shape)) == (b.dtype, tuple(b.shape)) and np.array_equal(
        _raw(left, name), _raw(right, name)
    )


def _raw(index: SafetensorsIndex, name: str) -> npt.NDArray[np.uint8]:
    """The tensor's bytes, so that NaN equals itself."""
    return index.view(name).reshape(-1).view(np.uint8)
