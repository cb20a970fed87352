"""Writing an artifact: whole, or nothing at all."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from optcc.artifact.digest import PIECE, canonical_json, sha256_files, sha256_pieces
from optcc.artifact.manifest import MANIFEST, FileEntry, Manifest
from optcc.artifact.reports import HASHES, REPORT, ReportHashes, parse_hashes, read_status
from optcc.artifact.staging import Staging, clean_up, locked
from optcc.artifact.weights import Span, TensorSource, write_safetensors
from optcc.errors import CannotWrite, CorruptArtifact, OptccError, OutputInTheWay
from optcc.files import is_disk_full, is_safe_name, is_write_refused, list_files, write_error, writing

WEIGHTS = "weights.safetensors"


class ArtifactWriter:
    """Builds an artifact beside `out` and renames it into place on `commit`.

    Use it as a context manager. Leaving the block without a commit, by an exception, Ctrl-C or just so,
    leaves nothing behind; a killed process leaves a directory that the next writer of the same `out` removes.
    An artifact that is already at `out` stays until the new one is complete.

    Args:
        out: where the artifact will be.
        predicted_bytes: how much will be written, if known.

    Raises (on entering):
        OutputInTheWay: `out` holds something that is not an artifact, or files that are not part of it.
        CannotWrite: no permission, or less free space than `predicted_bytes`.
    """

    def __init__(self, out: Path | str, predicted_bytes: int = 0) -> None:
        # A link to a directory keeps being one: what it points to is replaced.
        self.out = Path(out).resolve()
        self.predicted_bytes = predicted_bytes
        self._staging: Staging | None = None

    def __enter__(self) -> ArtifactWriter:
        with writing(self.out):
            if self.out.parent.is_dir():
                with locked(self.out.parent):
                    clean_up(self.out)
            check_replaceable(self.out)
            check_space(self.out, self.predicted_bytes)
        self._staging = Staging(self.out)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        staging, self._staging = self._staging, None
        if staging is None:
            return
        staging.discard()
        if isinstance(error, OSError):
            # Others write here too, through `path`: a full disk is one error with one code, whoever met it.
            named = str(error.filename or "")
            if is_disk_full(error) or (is_write_refused(error) and named.startswith(str(staging.root))):
                raise write_error(error, self.out) from error

    @property
    def root(self) -> Path:
        """The directory being built; `Artifact.open(root, force=True, verify=False)` reads it once sealed."""
        if self._staging is None:
            raise RuntimeError("the artifact is committed, or the writer was never entered")
        return self._staging.root

    def path(self, name: str) -> Path:
        """Where to write the file `name` (a relative POSIX path); its directory is created."""
        if not is_safe_name(name) or name == MANIFEST or name.split("/")[0] == REPORT:
            raise ValueError(f"not a name for an artifact's file: {name!r}")
        path = self.root / name
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, name: str, data: bytes | str) -> None:
        """Write a small file."""
        path = self.path(name)
        with writing(path):
            path.write_bytes(data.encode() if isinstance(data, str) else data)

    def write_weights(
        self, tensors: Sequence[TensorSource], metadata: Mapping[str, str] | None = None
    ) -> dict[str, Span]:
        """Write `weights.safetensors`, one tensor at a time; see `write_safetensors`."""
        return write_safetensors(self.path(WEIGHTS), tensors, metadata)

    def add_tokenizer(
        self, tokenizer_json: bytes | str, special: Mapping[str, Any], chat_template: str | None = None
    ) -> None:
        """Write `tokenizer/`: tokenizer.json as it is, special.json, and chat_template.jinja if any."""
        self.write("tokenizer/tokenizer.json", tokenizer_json)
        self.write("tokenizer/special.json", canonical_json(special))
        if chat_template is not None:
            self.write("tokenizer/chat_template.jinja", chat_template)

    def write_report(self, name: str, data: Any) -> None:
        """Write `report/NAME`: bytes and text as they are, anything else as JSON.

        `report.json` is a mapping with `status`: "ok", "failed" or "unchecked"; an artifact can't be
        committed without.
        """
        if not is_safe_name(name) or f"{REPORT}/{name}" == HASHES:
            raise ValueError(f"not a name for a report: {name!r}")
        if isinstance(data, str):
            data = data.encode()
        path = self.root / REPORT / name
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data if isinstance(data, bytes) else canonical_json(data))

    def seal(self, manifest: Manifest) -> Manifest:
        """Hash the files, write `manifest.json`, and return the manifest with its table of files filled in.

        The artifact can be opened in place then, for its accuracy check, before `commit`.
        """
        names = [n for n in list_files(self.root) if n != MANIFEST and not n.startswith(f"{REPORT}/")]
        sealed = dataclasses.replace(manifest, files=_entries(self.root, names))
        path = self.root / MANIFEST
        with writing(path):
            path.write_bytes(sealed.to_bytes())
        return sealed

    def commit(self, manifest: Manifest) -> Manifest:
        """Seal manifest and report, and put the artifact in place of whatever artifact was at `out`.

        Raises OutputInTheWay when something else has come to `out` meanwhile, CannotWrite, and ValueError
        when `report.json` with a status is missing.
        """
        staging = self._staging
        if staging is None:
            raise RuntimeError("the artifact is committed, or the writer was never entered")
        try:
            read_status(staging.root)
        except CorruptArtifact as error:
            raise ValueError(f"write_report('report.json', …) first: {error.what}") from error
        sealed = self.seal(manifest)
        names = [n for n in list_files(staging.root) if n.startswith(f"{REPORT}/") and n != HASHES]
        hashes = ReportHashes(sealed.digest, _entries(staging.root, names))
        with writing(self.out):
            (staging.root / HASHES).write_bytes(hashes.to_bytes())
        check_replaceable(self.out)
        staging.publish()
        self._staging = None
        return sealed


def _entries(root: Path, names: Sequence[str]) -> dict[str, FileEntry]:
    """Size and hash of each file. Raises CannotWrite for one that can't be read back."""
    entries: dict[str, FileEntry] = {}
    for name, digest in zip(names, sha256_files(root / name for name in names)):
        if isinstance(digest, OSError):
            raise CannotWrite(f"can't read {name} back: {digest.strerror}", where=str(root)) from digest
        size = (root / name).stat().st_size
        entries[name] = FileEntry(size, digest, sha256_pieces(root / name) if size > PIECE else ())
    return entries


def check_replaceable(out: Path) -> None:
    """Raise OutputInTheWay unless `out` is missing, an empty directory, or an artifact with nothing added.

    A damaged artifact may be replaced, as long as its manifest still reads as one.
    """
    hint = "choose another path, or remove it yourself"
    if not out.name or (out.exists() and not out.is_dir()):
        raise OutputInTheWay("the output path is not a directory", where=str(out), hint=hint)
    if not out.exists():
        return
    found = list_files(out)
    if not found and not any(out.iterdir()):
        return
    try:
        body = json.loads((out / MANIFEST).read_bytes())
        ours = {MANIFEST, HASHES, *body["files"]} if "optcc_version" in body and "digest" in body else None
    except (OSError, ValueError, KeyError, TypeError):
        ours = None
    if ours is None:
        raise OutputInTheWay(
            "the output path holds something that is not an artifact", where=str(out), hint=hint
        )
    try:
        ours |= set(parse_hashes((out / HASHES).read_bytes(), HASHES).files)
    except (OSError, OptccError):
        ours |= {name for name in found if name.startswith(f"{REPORT}/")}
    added = [name for name in found if name not in ours]
    if added:
        raise OutputInTheWay(
            f"the artifact there holds {len(added)} files that optcc didn't write, {added[0]} the first",
            where=str(out),
            hint="move them, or choose another path",
        )


def check_space(out: Path, predicted_bytes: int) -> None:
    """Raise CannotWrite when the disk of `out` has less free space than `predicted_bytes`."""
    folder = out
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < predicted_bytes:
        raise CannotWrite(
            f"the artifact needs about {predicted_bytes / 1e6:.1f} MB, {free / 1e6:.1f} MB are free",
            where=str(out),
            hint="free some space, or choose an output path on another disk",
        )
