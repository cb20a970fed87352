"""Opening an artifact and starting what runs it at once: hashing its weights takes as long as making a session."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from optcc.artifact.digest import PIECE, sha256_file, sha256_pieces
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
    wanted = entry.pieces or (entry.sha256,)
    try:
        size = path.stat().st_size
        found = sha256_pieces(path) if entry.pieces else (sha256_file(path),)
    except OSError as error:
        raise CorruptArtifact(
            f"can't read the weights: {error.strerror}", where=str(path), hint=hint
        ) from error
    if size != entry.bytes:
        raise CorruptArtifact(
            f"the weights are damaged: {size} bytes instead of {entry.bytes}", where=str(path), hint=hint
        )
    for index, (now, was) in enumerate(zip(found, wanted, strict=False)):
        if now != was:
            raise CorruptArtifact(
                f"the weights are damaged: SHA-256 {now[:12]}… instead of {was[:12]}…, "
                f"from byte {index * PIECE} on",
                where=str(path),
                hint=hint,
            )
    if len(found) != len(wanted):
        raise CorruptArtifact(
            f"{len(wanted)} pieces of the weights are listed, there are {len(found)}",
            where=str(path),
            hint=hint,
        )
