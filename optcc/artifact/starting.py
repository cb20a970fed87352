"""Opening an artifact and starting what runs it at once: hashing its weights takes as long as making a session."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from optcc.artifact.digest import sha256_mapped
from optcc.artifact.manifest import FileEntry
from optcc.artifact.store import WEIGHTS, Artifact
from optcc.artifact.verify import read_manifest
from optcc.errors import CorruptArtifact

T = TypeVar("T")


def open_and_start(
    path: Path | str, start: Callable[[Artifact], T], drop: Callable[[T], None], *, force: bool = False
) -> tuple[Artifact, T]:
    """Open the artifact directory `path` and start something over it while its weights are still being hashed.

    `start` gets an artifact whose other files, its graph among them, were all checked. What it makes is handed out
    when the weights are as they were written, and dropped otherwise.

    Args:
        path: the artifact.
        start: makes what runs it.
        drop: frees that.
        force: as for `Artifact.open`.

    Raises:
        NotAnArtifact, CorruptArtifact, IncompatibleArtifact, FailedArtifact: as `Artifact.open`; and whatever
            `start` raises, unless the weights are damaged.
    """
    root = Path(path)
    entry = read_manifest(root).files.get(WEIGHTS)
    if entry is None:
        artifact = Artifact.open(root, force=force)
        return artifact, start(artifact)
    with ThreadPoolExecutor(1) as pool:
        weights = pool.submit(_check, root / WEIGHTS, entry)
        try:
            artifact = Artifact.open(root, force=force, later=(WEIGHTS,))
            made = start(artifact)
        except Exception:
            weights.result()  # damaged weights explain what went wrong
            raise
        _settle(weights, lambda: drop(made))
    return artifact, made


def _settle(weights: Future[None], drop: Callable[[], None]) -> None:
    try:
        weights.result()
    except CorruptArtifact:
        drop()
        raise


def _check(path: Path, entry: FileEntry) -> None:
    """Raise CorruptArtifact unless the file is as it was written."""
    hint = "copy it again, or rebuild it"
    try:
        found = sha256_mapped(path)
    except OSError as error:
        raise CorruptArtifact(
            f"can't read the weights: {error.strerror}", where=str(path), hint=hint
        ) from error
    if found != entry.sha256:
        raise CorruptArtifact(
            f"the weights are damaged: SHA-256 {found[:12]}… instead of {entry.sha256[:12]}…",
            where=str(path),
            hint=hint,
        )
