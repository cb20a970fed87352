"""The lock of an artifact: everything that its bytes depend on, pinned by hash or version, in `report/lock.json`.

It lies outside the manifest's digest, since the same bytes may come from another machine or another version of a
library, and is sealed by a digest of its own. `optcc rebuild` compares it with what is here before it compiles,
and with what the second compile recorded afterwards.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from optcc import __version__
from optcc.artifact import Artifact, Manifest, canonical_json, sha256_bytes, sha256_file
from optcc.artifact.digest import unseal
from optcc.backends.protocol import Backend
from optcc.compile.cache import source_digest
from optcc.compile.gate import Checked
from optcc.compile.plan import Plan
from optcc.errors import CorruptArtifact, IncompatibleArtifact
from optcc.frontend import ModelSource
from optcc.host import package_versions, read_cpu
from optcc.recipe import Recipe

LOCK = "lock.json"
PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "gguf",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "nvidia-modelopt",
)
"""What computes or writes a byte of an artifact."""


@dataclass(frozen=True)
class Difference:
    """One fact that isn't what the lock says: its dotted name, what it was and what it is."""

    field: str
    was: str
    now: str

    def __str__(self) -> str:
        return f"{self.field} was {self.was}, is {self.now}"


def surroundings(backend: Backend) -> dict[str, Any]:
    """What this machine brings to a compile: versions, sources of optcc, processor, kernels."""
    here = backend.probe()
    cpu, _ = read_cpu(Path("/proc/cpuinfo"))
    found = {name: version for name, version in package_versions(PACKAGES).items() if version}
    return {
        "optcc": {"version": __version__, "sources": source_digest()},
        "python": platform.python_version(),
        "packages": found,
        "backend": {"name": backend.name, "version": here.version, "notes": list(here.notes)},
        "machine": {
            "system": platform.system(),
            "architecture": platform.machine(),
            "cpu": cpu or platform.processor(),
            "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        },
    }


def inputs(source: ModelSource, reference: str, recipe: Recipe, plan: Plan, threads: int) -> dict[str, Any]:
    """What a compile is given: the model's files, the recipe and the files it names, threads and seeds."""
    files = {path.name: sha256_file(path) for path in source.files}
    return {
        "model": {"reference": reference, "name": source.name, "digest": source.digest, "files": files},
        "recipe": {
            "name": recipe.name,
            "digest": sha256_bytes(canonical_json(recipe.to_json())),
            "base": str(recipe.base),
            "files": recipe_files(recipe, plan),
        },
        "threads": threads,
        "seeds": {"passes": 0},
    }


def recipe_files(recipe: Recipe, plan: Plan) -> dict[str, str | None]:
    """Files that the recipe names, passes, schemes and data, relative to its base, with their SHA-256 or None."""
    paths = {path for step in plan.pipeline.passes for path in step.reads(recipe.base)}
    paths |= {step.file for step in plan.pipeline.passes if step.file}
    paths |= {
        recipe.base / name for name in (*recipe.calibrate.data, *recipe.check.data) if _is_file_name(name)
    }
    return {_relative(p, recipe.base): sha256_file(p) if p.is_file() else None for p in sorted(paths)}


def _is_file_name(name: str) -> bool:
    return "." in name or "/" in name


def _relative(path: Path, base: Path) -> str:
    """Relative to the recipe, or to the package for what comes with optcc, so that it is the same everywhere."""
    package = Path(__file__).resolve().parents[1]
    for root in (package, package.parent):
        if path.resolve().is_relative_to(root) and not base.resolve().is_relative_to(root):
            return "optcc:" + path.resolve().relative_to(root).as_posix().removeprefix("optcc/")
    return Path(os.path.relpath(path, base)).as_posix()


def data_digests(checked: Checked | None, calibration: Mapping[str, Any] | None) -> dict[str, Any]:
    """Digests of the tokens or arrays that passes learned from and that were compared."""
    found = checked.to_json()["measurements"] if checked else {}
    compared = {text["name"]: text["digest"] for text in found.get("texts", [])}
    if found.get("inputs_digest"):
        compared["inputs"] = found["inputs_digest"]
    return {"calibration": dict(calibration) if calibration else None, "check": compared}


def make_lock(
    manifest: Manifest, given: Mapping[str, Any], here: Mapping[str, Any], data: Mapping[str, Any]
) -> Any:
    """The whole lock."""
    return {"version": 1, "artifact": manifest.digest, **given, **here, "data": dict(data)}


def read_lock(artifact: Artifact) -> dict[str, Any]:
    """The lock of an artifact.

    Raises:
        IncompatibleArtifact: it has none; an older optcc wrote it.
        CorruptArtifact: its bytes aren't those that were written.
    """
    path = artifact.root / "report" / LOCK
    if not path.is_file():
        raise IncompatibleArtifact(
            "lock: the artifact has no report/lock.json, so what it was made from is not known",
            where=str(artifact.root),
            hint="compile it again with this release of optcc",
        )
    return unseal(path.read_bytes(), str(path), CorruptArtifact)


def differences(was: Mapping[str, Any], now: Mapping[str, Any], only: Sequence[str] = ()) -> list[Difference]:
    """What differs between two locks; `only` names the top-level fields to compare, all by default."""
    left, right = dict(_flat(was, only)), dict(_flat(now, only))
    return [
        Difference(key, left.get(key, "absent"), right.get(key, "absent"))
        for key in sorted(left.keys() | right.keys())
        if left.get(key, "absent") != right.get(key, "absent") and key not in _LOCAL
    ]


# Where things lie changes no byte.
_LOCAL = {"model.reference", "recipe.base", "artifact"}


def _flat(value: Mapping[str, Any], only: Sequence[str], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        if not prefix and only and key not in only:
            continue
        if isinstance(item, Mapping):
            yield from _flat(item, (), f"{prefix}{key}.")
        else:
            text = ", ".join(map(str, item)) if isinstance(item, list) else str(item)
            yield f"{prefix}{key}", text or "none"
