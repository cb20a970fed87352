"""The `report/` folder: status and measurements, outside the manifest's digest and with hashes of their own.

`report/hashes.json` is sealed like the manifest, covers every other file of the folder, and names the
manifest it belongs to: the report of one artifact can't be passed off as another's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from optcc.artifact.digest import sealed, unseal
from optcc.artifact.manifest import FileEntry, parse_files
from optcc.errors import CorruptArtifact

REPORT = "report"
HASHES = "report/hashes.json"
MAIN = "report/report.json"
STATUSES = ("ok", "failed", "unchecked")


@dataclass(frozen=True)
class ReportHashes:
    """The content of `hashes.json`: the manifest's digest, and path (from the artifact's root) -> entry."""

    manifest: str
    files: Mapping[str, FileEntry]

    def to_bytes(self) -> bytes:
        """The content of `hashes.json`."""
        return sealed({"manifest": self.manifest, "files": {n: e.to_json() for n, e in self.files.items()}})


def parse_hashes(data: bytes, where: str) -> ReportHashes:
    """Read `hashes.json`. Raises CorruptArtifact."""
    body = unseal(data, where, CorruptArtifact)
    try:
        return ReportHashes(str(body["manifest"]), parse_files(body["files"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptArtifact(f"a field is missing or malformed: {error}", where=where) from error


def read_status(root: Path) -> str:
    """ "ok", "failed" or "unchecked" from `report.json`. Raises CorruptArtifact."""
    path = root / MAIN
    try:
        status = json.loads(path.read_bytes())["status"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptArtifact("the report has no readable status", where=str(path)) from error
    if status not in STATUSES:
        raise CorruptArtifact(f"the report's status is {status!r}", where=str(path))
    return str(status)
