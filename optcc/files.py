"""Writing files so that a reader never sees half of one, and saying clearly why a write failed.

Standard library only: everything that writes, from the pass cache to the artifact, stands on this module.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from optcc.errors import CannotWrite

# EFBIG comes from `ulimit -f`, EDQUOT from a quota: to the user all four mean that there is no room.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_REFUSED = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOTDIR,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.EIO,
        errno.EBUSY,
    }
)


def is_disk_full(error: OSError) -> bool:
    """Whether the error says that there is no room for more bytes."""
    return error.errno in _FULL


def is_write_refused(error: OSError) -> bool:
    """Whether the error says that this place can't be written at all."""
    return error.errno in _REFUSED


def write_error(error: OSError, path: Path) -> CannotWrite:
    """The E605 that explains `error`, met while writing `path`."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    hint = "free some space, or choose another path" if is_disk_full(error) else "check who may write there"
    return CannotWrite(f"can't write: {reason}", where=str(path), hint=hint)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the errors of a full or read-only disk into `CannotWrite`; the body only writes `path`."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error) or is_write_refused(error):
            raise write_error(error, path) from error
        raise


def sync_file(path: Path) -> None:
    """Wait until the file or directory is on the disk, so that a rename can't overtake its content."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path`: afterwards the file is whole, or as it was before.

    Parent directories are created. Raises CannotWrite.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def is_safe_name(name: str) -> bool:
    """Whether `name` is a plain relative POSIX path that stays inside its root, in its only spelling."""
    if not name or "\\" in name or "\0" in name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and str(path) == name and name != "."


def list_files(root: Path) -> list[str]:
    """Every file under `root`, as sorted POSIX paths relative to it.

    A symbolic link to a directory counts as one entry and is not followed.
    """
    found: list[str] = []
    for folder, subfolders, files in os.walk(root):
        links = [name for name in subfolders if os.path.islink(os.path.join(folder, name))]
        found.extend(Path(folder, name).relative_to(root).as_posix() for name in (*files, *links))
    return sorted(found)
