"""A directory that appears whole or not at all: built beside its destination, then renamed into place.

Siblings of the destination NAME:

- `.NAME.partial-PID`: being written. Its writer holds a lock on it, which the system drops when the writer
  dies, so that a stale one is told from a live one even when process ids are reused or belong to another
  container.
- `.NAME.old-PID`: the directory that is being replaced, between the two renames. If there is one and no NAME,
  the writer died there, and the old one is put back.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optcc.errors import OutputInTheWay
from optcc.files import list_files, sync_file, writing


class Staging:
    """The directory `root` that becomes `out` on `publish()`, or vanishes on `discard()`.

    Parents of `out` are created, and those created are removed again by `discard`.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.root = _sibling(out, "partial")
        self._created = _make_parents(out.parent)
        try:
            with writing(out), locked(out.parent):
                if self.root.exists():
                    raise OutputInTheWay("another compile is writing there", where=str(out))
                self.root.mkdir()
                self._lock: int | None = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
                with contextlib.suppress(OSError):
                    fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            _remove_parents(self._created)
            raise

    def publish(self) -> None:
        """Rename `root` to `out`, once every byte is on the disk; what was there is gone afterwards."""
        with writing(self.out):
            for name in list_files(self.root):
                sync_file(self.root / name)
            for folder, _, _ in os.walk(self.root):
                sync_file(Path(folder))
            with locked(self.out.parent):
                aside = _sibling(self.out, "old")
                replaced = self.out.exists()
                if replaced:
                    os.rename(self.out, aside)
                try:
                    os.rename(self.root, self.out)
                except BaseException:
                    if replaced:
                        os.rename(aside, self.out)
                    raise
                sync_file(self.out.parent)
        self._unlock()
        if replaced:
            shutil.rmtree(aside, ignore_errors=True)

    def discard(self) -> None:
        """Remove everything that was written."""
        shutil.rmtree(self.root, ignore_errors=True)
        self._unlock()
        _remove_parents(self._created)

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)


def clean_up(out: Path) -> None:
    """Remove what writers of `out` that died left behind, or put back what one of them was replacing."""
    for old in _siblings(out, "old"):
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(old, out)
    for partial in _siblings(out, "partial"):
        if not _is_locked(partial):
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a lock on a directory, where the file system has locks."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _is_locked(folder: Path) -> bool:
    """Whether a live writer holds `folder`; where that can't be told, its process id decides."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return os.path.exists(f"/proc/{folder.name.rpartition('-')[2]}")
    finally:
        os.close(handle)
    return False


def _sibling(out: Path, kind: str) -> Path:
    return out.with_name(f".{out.name}.{kind}-{os.getpid()}")


def _siblings(out: Path, kind: str) -> list[Path]:
    prefix = f".{out.name}.{kind}-"
    found = (path for path in out.parent.iterdir() if path.name.startswith(prefix) and path.is_dir())
    return sorted(path for path in found if path.name.removeprefix(prefix).isdecimal())


def _make_parents(folder: Path) -> list[Path]:
    """Create `folder` and return the directories that were created, innermost first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    created: list[Path] = []
    for path in reversed(missing):
        with writing(path):
            path.mkdir(exist_ok=True)
        created.insert(0, path)
    return created


def _remove_parents(created: list[Path]) -> None:
    for path in created:
        with contextlib.suppress(OSError):
            path.rmdir()
