"""Is every byte of an artifact as it was written?"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optcc.artifact.digest import sha256_files
from optcc.artifact.manifest import MANIFEST, FileEntry, Manifest, parse_manifest
from optcc.artifact.reports import HASHES, MAIN, REPORT, parse_hashes
from optcc.errors import CorruptArtifact, NotAnArtifact
from optcc.files import list_files

CHANGED, MISSING, EXTRA, UNREADABLE = "changed", "missing", "extra", "unreadable"


@dataclass(frozen=True)
class Problem:
    """One bad file: its path in the artifact, the kind of damage (a constant above), and what is seen."""

    path: str
    kind: str
    detail: str


@dataclass(frozen=True)
class VerifyReport:
    """What `verify_artifact` found.

    Attributes:
        root: the artifact.
        digest: the manifest's, or "" when the manifest itself is damaged.
        files: how many files were hashed.
        bytes: their total size.
        problems: sorted by path; empty for an intact artifact.
    """

    root: str
    digest: str
    files: int
    bytes: int
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is changed, missing, unreadable or extra."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """The report as plain data."""
        return {
            "path": self.root,
            "ok": self.ok,
            "digest": self.digest,
            "files": self.files,
            "bytes": self.bytes,
            "problems": [{"path": p.path, "kind": p.kind, "detail": p.detail} for p in self.problems],
        }

    def raise_if_damaged(self) -> None:
        """Raise CorruptArtifact that names every damaged file. Extra files damage nothing."""
        damaged = [p for p in self.problems if p.kind != EXTRA]
        if damaged:
            listed = "; ".join(f"{p.path}: {p.kind} ({p.detail})" for p in damaged)
            raise CorruptArtifact(
                f"the artifact is damaged: {listed}", where=self.root, hint="copy it again, or rebuild it"
            )


def read_manifest(root: Path) -> Manifest:
    """The manifest of the artifact at `root`.

    Raises NotAnArtifact, CorruptArtifact, IncompatibleArtifact.
    """
    path = root / MANIFEST
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "the directory holds no manifest.json" if root.is_dir() else "there is no such directory"
        raise NotAnArtifact(what, where=str(root), hint="`optcc compile … -o DIR` writes one") from error
    except OSError as error:
        raise CorruptArtifact(f"can't read the manifest: {error.strerror}", where=str(path)) from error
    return parse_manifest(data, str(path))


def verify_artifact(path: Path | str, later: Container[str] = ()) -> VerifyReport:
    """Hash every file of an artifact and list all that is wrong.

    Args:
        path: the artifact.
        later: files that are looked for and not hashed, because somebody else does.

    Raises NotAnArtifact when there is no manifest, IncompatibleArtifact for another format version.
    """
    root = Path(path)
    problems: list[Problem] = []
    expected: dict[str, FileEntry] = {}
    digest = ""
    try:
        manifest = read_manifest(root)
        expected.update(manifest.files)
        digest = manifest.digest
    except CorruptArtifact as error:
        problems.append(Problem(MANIFEST, CHANGED, error.what))
    try:
        hashes = parse_hashes((root / HASHES).read_bytes(), str(root / HASHES))
        expected.update(hashes.files)
        if digest and hashes.manifest != digest:
            problems.append(Problem(HASHES, CHANGED, "the report belongs to another artifact"))
        if MAIN not in hashes.files:
            problems.append(Problem(MAIN, MISSING, "the report is not listed"))
    except FileNotFoundError:
        problems.append(Problem(HASHES, MISSING, "the report can't be checked"))
    except CorruptArtifact as error:
        problems.append(Problem(HASHES, CHANGED, error.what))
    except OSError as error:
        problems.append(Problem(HASHES, UNREADABLE, error.strerror or str(error)))
    found = set(list_files(root)) - {MANIFEST, HASHES}
    now = {name: entry for name, entry in expected.items() if name not in later or name not in found}
    problems.extend(compare(root, now, found))
    # What a damaged manifest doesn't list can't be told from what doesn't belong.
    listed_tables = {p.path for p in problems} & {MANIFEST, HASHES}
    for name in found - set(expected):
        table = HASHES if name.startswith(f"{REPORT}/") else MANIFEST
        if table not in listed_tables:
            problems.append(Problem(name, EXTRA, f"not listed in {table}"))
    total = sum(entry.bytes for entry in expected.values())
    ordered = tuple(sorted(problems, key=lambda p: (p.path, p.kind)))
    return VerifyReport(str(root), digest, len(expected), total, ordered)


def compare(root: Path, expected: Mapping[str, FileEntry], found: set[str]) -> list[Problem]:
    """Hash the files of `expected` and report those that differ or are not in `found`."""
    problems = [Problem(name, MISSING, "no such file") for name in expected if name not in found]
    present = [name for name in expected if name in found]
    for name, digest in zip(present, sha256_files(root / name for name in present)):
        if isinstance(digest, OSError):
            problems.append(Problem(name, UNREADABLE, digest.strerror or str(digest)))
            continue
        size = (root / name).stat().st_size
        if size != expected[name].bytes:
            problems.append(Problem(name, CHANGED, f"{size} bytes instead of {expected[name].bytes}"))
        elif digest != expected[name].sha256:
            problems.append(
                Problem(name, CHANGED, f"SHA-256 {digest[:12]}… instead of {expected[name].sha256[:12]}…")
            )
    return problems
