"""The cache directory as a whole: what it holds, how it stays below a limit, how it is emptied.

    passes/<key>/           what a pass left: text and references; written by `optcc.compile.cache`
    scratch/<key>/          unfinished work of the pass that will make this entry; outlives a kill
    tensors/<digest>.bin    tensors that passes made, by content
    converted/<digest>-<n>/ GGUF files as transformers directories, quantized checkpoints in optcc's layout
    chat/<name>.json        the original models' answers to the built-in prompts
    lock                    every compile holds it shared; who removes anything holds it alone

Entries are dated by their last use. Standard library only: `optcc cache` imports no torch.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from optcc.errors import BadSetting, CacheInUse

LIMIT_VARIABLE = "OPTCC_CACHE_LIMIT"
DEFAULT_LIMIT = 20 * 10**9
# `optcc plan` and `optcc check` read a converted model without holding the lock; it is left alone for a day.
_IDLE_SECONDS = 24 * 3600

# Only what has such a name is ever removed: the directory may hold other things.
_NAMES = {
    "passes": re.compile(r"[0-9a-f]{64}"),
    "scratch": re.compile(r"[0-9a-f]{64}"),
    "tensors": re.compile(r"[0-9a-f]{64}\.bin"),
    "converted": re.compile(r".+-\d+"),
    "chat": re.compile(r".+\.json"),
}
_UNFINISHED = {
    "passes": re.compile(r"\.[0-9a-f]{64}\.\d+"),
    "scratch": re.compile(r"\..+"),
    "tensors": re.compile(r"\.[0-9a-f]{64}\.bin\.\d+"),
    "converted": re.compile(r"\.making-.+"),
    "chat": re.compile(r".+\.tmp"),
}
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def default_cache() -> Path:
    """`$OPTCC_CACHE`, or `~/.cache/optcc`."""
    given = os.environ.get("OPTCC_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "optcc"


def cache_limit() -> int:
    """Bytes that a compile leaves in the cache: `$OPTCC_CACHE_LIMIT` (`5GB`, `500 MB`, bytes), or 20 GB.

    Raises:
        BadSetting: the variable holds something else.
    """
    given = os.environ.get(LIMIT_VARIABLE, "").strip()
    if not given:
        return DEFAULT_LIMIT
    size = parse_size(given)
    if size is None:
        raise BadSetting(
            f"{LIMIT_VARIABLE} is {given!r}, which is no size",
            hint="write bytes, or a unit as in 500MB or 20GB",
        )
    return size


def parse_size(text: str) -> int | None:
    """Bytes of `5GB`, `500 MB` or `1000`; None of anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    unit = _UNITS.get(found[2].upper()) if found else None
    return None if found is None or unit is None else int(float(found[1]) * unit)


@dataclass(frozen=True)
class Item:
    """A file or directory of the cache.

    Attributes:
        kind: the folder it lies in.
        path: where it is.
        bytes: of all its files.
        used: when it was last used, in seconds since 1970.
        unfinished: what a writer that was killed left behind, or one that is at work.
    """

    kind: str
    path: Path
    bytes: int
    used: float
    unfinished: bool = False


def contents(root: Path) -> list[Item]:
    """Everything of ours below a cache directory; what vanishes meanwhile is left out."""
    found: list[Item] = []
    for kind, name in _NAMES.items():
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(root / kind) as entries:
            for entry in entries:
                unfinished = _UNFINISHED[kind].fullmatch(entry.name) is not None
                if unfinished or name.fullmatch(entry.name):
                    with suppress(FileNotFoundError):
                        used = entry.stat(follow_symlinks=False).st_mtime
                        found.append(Item(kind, Path(entry.path), _size(entry), used, unfinished))
    return found


def _size(entry: os.DirEntry[str]) -> int:
    if not entry.is_dir(follow_symlinks=False):
        return entry.stat(follow_symlinks=False).st_size
    return sum(p.lstat().st_size for p in Path(entry.path).rglob("*") if p.is_file())


def mark_used(path: Path) -> None:
    """Date an entry as used now; a cache that can't be written keeps its dates."""
    with suppress(OSError):
        os.utime(path)


@contextmanager
def using(*roots: Path | None) -> Iterator[None]:
    """While this is open nobody removes anything from these caches. Waits for who is removing right now.

    A directory that can't be made or locked is used without: then nobody can remove anything either, or a write
    will soon say why it can't.
    """
    with ExitStack() as held:
        for root in {root for root in roots if root is not None}:
            with suppress(OSError):
                root.mkdir(parents=True, exist_ok=True)
                fcntl.flock(held.enter_context((root / "lock").open("ab")), fcntl.LOCK_SH)
        yield


@contextmanager
def _alone(root: Path) -> Iterator[bool]:
    """Whether nobody uses the cache, and nobody will begin to before this is closed."""
    with (root / "lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def prune(root: Path, limit: int) -> int:
    """Bring a cache below `limit` bytes; returns the bytes removed.

    First go leftovers and tensors that no entry refers to, then the entries used longest ago, with the tensors that
    only they referred to. Nothing is removed while somebody else uses the cache: the last one to end does it.
    """
    with suppress(OSError):
        if sum(item.bytes for item in contents(root)) > limit:
            with _alone(root) as alone:
                return _prune(root, limit) if alone else 0
    return 0


def _prune(root: Path, limit: int) -> int:
    items = contents(root)
    excess = sum(item.bytes for item in items) - limit
    tensors = {item.path.name: item for item in items if item.kind == "tensors" and not item.unfinished}
    entries = {item.path: _references(item.path) for item in items if _is_entry(item)}
    users = Counter(name for names in entries.values() for name in names)
    before = time.time() - _IDLE_SECONDS
    models = [item for item in items if item.kind == "converted" and item.used < before]
    unused = [item for item in items if item.unfinished and item.kind != "converted"]
    unused += [item for name, item in tensors.items() if not users[name]]
    entry_items = [item for item in items if item.path in entries or item.kind == "scratch"]
    freed = 0
    for item in [*unused, *sorted([*entry_items, *models], key=lambda item: item.used)]:
        if freed >= excess:
            break
        freed += _remove(item)
        for name in entries.get(item.path, ()):
            users[name] -= 1
            if not users[name] and name in tensors:
                freed += _remove(tensors[name])
    return freed


def _is_entry(item: Item) -> bool:
    return item.kind == "passes" and not item.unfinished


def _references(entry: Path) -> frozenset[str]:
    """Names of the tensor files that an entry refers to; none if it is damaged."""
    try:
        weights = json.loads((entry / "entry.json").read_bytes())["weights"]
        return frozenset(Path(ref["path"]).name for ref in weights.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return frozenset()


def _remove(item: Item) -> int:
    """Delete an item, the file that makes an entry valid first; returns its bytes."""
    if item.path.is_dir():
        (item.path / "entry.json").unlink(missing_ok=True)
        shutil.rmtree(item.path)
    else:
        item.path.unlink(missing_ok=True)
    return item.bytes


def clear(root: Path) -> int:
    """Remove everything of ours below a cache directory; returns the bytes removed.

    Raises:
        CacheInUse: a compile is using it.
    """
    if not root.is_dir():
        return 0
    with _alone(root) as alone:
        if not alone:
            raise CacheInUse("a compile is using the cache", where=str(root), hint="wait until it has ended")
        freed = sum(_remove(item) for item in contents(root))
        for kind in _NAMES:
            with suppress(OSError):
                (root / kind).rmdir()
    return freed
