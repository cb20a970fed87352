"""The pass cache: what each pass left, so that a second compile redoes only what changed and a killed one goes on.

An entry's key is the hash of everything its content depends on: all sources of optcc and of plugins, the model's
digest, loading options, versions of the libraries that compute, the thread count, and the passes so far with the
content of the files they name. An entry holds the module's text, references to its tensors (which lie beside, named
by content), and the passes' records.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from optcc.artifact.digest import canonical_json, sha256_bytes, sha256_file
from optcc.cache import mark_used
from optcc.errors import OptccError
from optcc.files import writing
from optcc.ir.module import Module
from optcc.ir.parse import parse_module
from optcc.ir.text import module_text
from optcc.ir.weights import TensorRef, WeightStore
from optcc.pm.instruments import PassRecord
from optcc.pm.passes import Pass

_COMPUTES = ("torch", "numpy", "transformers", "nvidia-modelopt")


def source_digest() -> str:
    """Hash of every source and data file of optcc, so that an edited optcc never meets its old results."""
    root = Path(__file__).resolve().parent.parent
    folders = [root, *(root / name for name in ("passes", "backends", "recipes"))]
    files = {
        p.resolve()
        for f in folders
        for p in f.resolve().rglob("*")
        if p.suffix in (".py", ".yaml") and p.is_file()
    }
    return sha256_bytes("\n".join(f"{p.name} {sha256_file(p)}" for p in sorted(files)).encode())


def versions() -> dict[str, str]:
    """Versions of the installed packages that a result depends on."""
    found = {}
    for name in _COMPUTES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def start_key(facts: Mapping[str, object]) -> str:
    """Key of the captured module."""
    return sha256_bytes(canonical_json({"sources": source_digest(), "versions": versions(), **facts}))


def next_key(key: str, step: Pass, base: Path, learned: Mapping[str, object] | None = None) -> str:
    """Key of what `step` leaves, given the key of what it gets and the facts of the data it learns from."""
    files = [*step.reads(base), *([step.file] if step.file else [])]
    return sha256_bytes(
        canonical_json(
            {"after": key, "pass": str(step), "files": [sha256_file(p) for p in files], "data": learned}
        )
    )


@dataclass(frozen=True)
class Entry:
    """A module as a pass left it, the records of the passes so far, and what else the compile knew by then."""

    module: Module
    records: list[PassRecord]
    facts: dict[str, Any]


class PassCache:
    """Entries below one directory.

    Args:
        root: made when needed. None keeps nothing: every compile starts anew.
    """

    def __init__(self, root: Path | None) -> None:
        self.root = root

    @property
    def tensors(self) -> Path | None:
        """Where new tensors are written; None for a temporary place."""
        return self.root / "tensors" if self.root else None

    def load(self, key: str) -> Entry | None:
        """What is stored under a key, or None if there is no whole entry."""
        if self.root is None:
            return None
        entry = self.root / "passes" / key
        try:
            data = json.loads((entry / "entry.json").read_bytes())
            store = WeightStore(self.root / "tensors")
            store.refs = {name: TensorRef.from_json(ref) for name, ref in data["weights"].items()}
            if not all(_is_whole(ref) for ref in store.refs.values()):
                return None
            module = parse_module((entry / "module.ir").read_text(), store)
            records = [PassRecord.from_json({**row, "cached": True}) for row in data["records"]]
            mark_used(entry)
            return Entry(module, records, data["facts"])
        except (OSError, ValueError, KeyError, TypeError, OptccError):
            return None  # a damaged entry is as good as none

    def has(self, key: str) -> bool:
        """Whether there seems to be an entry; `load` finds out."""
        return self.root is not None and (self.root / "passes" / key / "entry.json").is_file()

    def scratch(self, key: str) -> Path | None:
        """Where the pass that makes this entry keeps unfinished work; it is gone once the entry is saved."""
        return self.root / "scratch" / key if self.root else None

    def save(self, key: str, module: Module, records: Sequence[PassRecord], facts: Mapping[str, Any]) -> None:
        """Store the module under a key; whole or not at all.

        Raises:
            CannotWrite: the disk is full.
        """
        if self.root is None:
            return
        entry = self.root / "passes" / key
        partial = entry.with_name(f".{key}.{os.getpid()}")
        with writing(partial):
            try:
                partial.mkdir(parents=True, exist_ok=True)
                weights = {name: ref.to_json() for name, ref in module.weights.refs.items()}
                rows = [row.to_json() for row in records]
                (partial / "module.ir").write_text(module_text(module))
                (partial / "entry.json").write_text(
                    json.dumps({"weights": weights, "records": rows, "facts": dict(facts)})
                )
                if entry.exists():
                    shutil.rmtree(entry)
                partial.rename(entry)
                shutil.rmtree(self.root / "scratch" / key, ignore_errors=True)
            finally:
                shutil.rmtree(partial, ignore_errors=True)


def _is_whole(ref: TensorRef) -> bool:
    """Whether a tensor's bytes are all there; a tensor made by a pass is hashed again."""
    if not ref.path.is_file() or ref.path.stat().st_size < ref.offset + ref.nbytes:
        return False
    return ref.digest is None or ref.nbytes == 0 or sha256_file(ref.path) == ref.digest
