"""The manifest: what an artifact is, and the hash of every file that belongs to it.

`manifest.json` is canonical JSON with its own digest, so that the same inputs give the same bytes and no byte
of it can change unseen. Timings, measurements and host facts are not in it; they live in `report/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optcc.artifact.digest import canonical_json, sealed, sha256_bytes, unseal
from optcc.errors import CorruptArtifact, IncompatibleArtifact
from optcc.files import is_safe_name

VERSION = 1
KINDS = ("decoder", "function")
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class FileEntry:
    """One file.

    Attributes:
        bytes: its size.
        sha256: of all of it, hexadecimal.
        pieces: the same of every 16 MiB, of a file that is larger; several threads check those at once.
    """

    bytes: int
    sha256: str
    pieces: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The entry as plain data."""
        pieces = {"pieces": list(self.pieces)} if self.pieces else {}
        return {"bytes": self.bytes, "sha256": self.sha256, **pieces}


@dataclass(frozen=True)
class ModelRef:
    """The model that was compiled: its name as given, and the digest of its files."""

    name: str
    digest: str


@dataclass(frozen=True)
class Manifest:
    """What an artifact is.

    Attributes:
        kind: "decoder" (generates text) or "function" (named inputs to named outputs).
        optcc_version: the release that wrote it.
        target: backend, device and threads it was compiled for.
        recipe: the resolved recipe.
        pipeline: the passes that ran, as text that parses back.
        spec: for a decoder the runtime's ModelSpec, for a function its inputs and outputs; plain JSON.
        model: what was compiled.
        min_versions: package name -> oldest version that runs it.
        files: POSIX path -> entry, for every file outside `report/` but the manifest; the writer fills it in.
    """

    kind: str
    optcc_version: str
    target: Mapping[str, Any]
    recipe: Mapping[str, Any]
    pipeline: str
    spec: Mapping[str, Any]
    model: ModelRef
    min_versions: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    version: int = VERSION

    def body(self) -> dict[str, Any]:
        """The manifest as plain data, without its digest."""
        return {
            "version": self.version,
            "kind": self.kind,
            "optcc_version": self.optcc_version,
            "target": dict(self.target),
            "recipe": dict(self.recipe),
            "pipeline": self.pipeline,
            "spec": dict(self.spec),
            "model": {"name": self.model.name, "digest": self.model.digest},
            "min_versions": dict(self.min_versions),
            "files": {name: entry.to_json() for name, entry in self.files.items()},
        }

    @property
    def digest(self) -> str:
        """The artifact's identity: SHA-256 over everything in the manifest and so over every file."""
        return sha256_bytes(canonical_json(self.body()))

    def to_bytes(self) -> bytes:
        """The content of `manifest.json`."""
        return sealed(self.body())


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Read `manifest.json`.

    Raises CorruptArtifact unless every byte is as written, IncompatibleArtifact for another format version.
    """
    body = unseal(data, where, CorruptArtifact)
    if body.get("version") != VERSION:
        raise IncompatibleArtifact(
            f"version: the artifact has format {body.get('version')}, this release of optcc reads {VERSION}",
            where=where,
            hint=f"use optcc {body.get('optcc_version')}, which wrote it, or compile the model again",
        )
    try:
        return _typed(body)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptArtifact(f"a field is missing or malformed: {error}", where=where) from error


def _typed(body: dict[str, Any]) -> Manifest:
    if body["kind"] not in KINDS:
        raise ValueError(f"kind is {body['kind']!r}")
    model = body["model"]
    return Manifest(
        kind=body["kind"],
        optcc_version=str(body["optcc_version"]),
        target=dict(body["target"]),
        recipe=dict(body["recipe"]),
        pipeline=str(body["pipeline"]),
        spec=dict(body["spec"]),
        model=ModelRef(str(model["name"]), str(model["digest"])),
        min_versions={str(k): str(v) for k, v in body["min_versions"].items()},
        files=parse_files(body["files"]),
    )


def parse_files(table: Mapping[str, Any]) -> dict[str, FileEntry]:
    """A table of files. Raises ValueError for a name that leads out of the artifact."""
    for name in table:
        if not is_safe_name(name):
            raise ValueError(f"unsafe file name {name!r}")
    return {
        name: FileEntry(int(entry["bytes"]), str(entry["sha256"]), tuple(map(str, entry.get("pieces", ()))))
        for name, entry in table.items()
    }
