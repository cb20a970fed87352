"""Resident memory of this process, as the kernel counts it."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def _status(key: str) -> int:
    """A line of /proc/self/status in bytes; 0 where there is no such file."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def resident_bytes() -> int:
    """Memory in use now, file-backed pages included."""
    return _status("VmRSS")


def anonymous_bytes() -> int:
    """Memory in use now that no file backs: what a compile really costs."""
    return _status("RssAnon")


class MemoryMeter:
    """Peak resident memory since the last `restart`, and since the meter was made.

    The kernel's high-water mark is reset where that is allowed; elsewhere the peak is that of the whole process.
    """

    def __init__(self) -> None:
        self.highest = 0
        self.restart()

    def restart(self) -> None:
        """Begin a new period."""
        self.highest = max(self.highest, _status("VmHWM"))
        with suppress(OSError):
            _CLEAR.write_text("5")

    def peak(self) -> int:
        """Highest resident bytes of the period."""
        now = _status("VmHWM")
        self.highest = max(self.highest, now)
        return now


def release() -> None:
    """Give memory that is no longer used back to the system: collect cycles (captured programs are full of them), and
    have the allocator return its free pages where it can."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def imports_left_alone() -> Iterator[None]:
    """What exists now is not searched for cycles inside: a quarter of a second each time, once torch is imported."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
