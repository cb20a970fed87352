"""Opening an artifact: nothing of it is used before every hash was checked."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from optcc.artifact.manifest import Manifest
from optcc.artifact.reports import REPORT, read_status
from optcc.artifact.verify import read_manifest, verify_artifact
from optcc.artifact.weights import SafetensorsIndex
from optcc.errors import CorruptArtifact, FailedArtifact, IncompatibleArtifact

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Artifact:
    """An opened artifact. Make one with `Artifact.open`."""

    root: Path
    manifest: Manifest

    @staticmethod
    def open(
        path: Path | str, *, force: bool = False, verify: bool = True, later: Container[str] = ()
    ) -> Artifact:
        """Open the artifact directory `path`.

        Args:
            force: open one that failed its accuracy check, or that this machine's packages are too old for.
            verify: hash every file; False is for a directory that this process has just written.
            later: files whose hashes somebody else checks (`open_and_start`).

        Raises:
            NotAnArtifact: there is no manifest.
            CorruptArtifact: a file is changed or missing.
            IncompatibleArtifact: another format version, or an installed package is too old.
            FailedArtifact: its accuracy check failed, and `force` is off.
        """
        root = Path(path)
        artifact = Artifact(root, read_manifest(root))
        if verify:
            verify_artifact(root, later).raise_if_damaged()
        if not force:
            artifact.check_packages()
            if artifact.status == "failed":
                raise FailedArtifact(
                    "the artifact did not pass its accuracy check",
                    where=str(root),
                    hint="`optcc inspect` shows the numbers; --force opens it all the same",
                )
        return artifact

    @property
    def kind(self) -> str:
        """ "decoder" or "function"."""
        return self.manifest.kind

    @property
    def spec(self) -> Mapping[str, Any]:
        """The manifest's `spec`: plain JSON, read by the runtime."""
        return self.manifest.spec

    @property
    def status(self) -> str:
        """ "ok", "failed" or "unchecked", as the report says. Raises CorruptArtifact."""
        return read_status(self.root)

    @property
    def bytes(self) -> int:
        """Size of everything but the manifest and the report."""
        return sum(entry.bytes for entry in self.manifest.files.values())

    def has(self, name: str) -> bool:
        """Whether the manifest lists a file of this name."""
        return name in self.manifest.files

    def path(self, name: str) -> Path:
        """The path of a file of the artifact. Raises CorruptArtifact when the manifest lists none such."""
        if not self.has(name):
            raise CorruptArtifact(f"the artifact has no file {name}", where=str(self.root))
        return self.root / name

    def weights(self) -> SafetensorsIndex:
        """The index of `weights.safetensors`; no tensor is read. Raises CorruptWeights."""
        return SafetensorsIndex.open(self.path(WEIGHTS))

    def report(self, name: str = "report.json") -> Any:
        """The content of a JSON file of `report/`. Raises CorruptArtifact."""
        path = self.root / REPORT / name
        try:
            return json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise CorruptArtifact(f"the report {name} can't be read", where=str(path)) from error

    def check_packages(self) -> None:
        """Raise IncompatibleArtifact if an installed package is older than the artifact needs.

        A package that isn't installed is the backend's to report, with the command that installs it.
        """
        for package, needed in sorted(self.manifest.min_versions.items()):
            try:
                installed = metadata.version(package)
            except metadata.PackageNotFoundError:
                continue
            if _release(installed) < _release(needed):
                rebuild = f"optcc compile {self.manifest.model.name} RECIPE -o {self.root}"
                raise IncompatibleArtifact(
                    f"min_versions.{package}: the artifact needs {needed}, {installed} is installed",
                    where=str(self.root),
                    hint=f"`pip install '{package}>={needed}'`, or rebuild it here: `{rebuild}`",
                )


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version in front of any suffix, without trailing zeros: 1.20.0rc1 -> (1, 20)."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in match.group().split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
