"""Resident memory of this process, as the kernel counts it."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Peak:
    """Highest memory of a period, in bytes.

    Attributes:
        resident: file-backed pages included; the kernel's own high-water mark.
        anonymous: what no file backs, as sampled.
    """

    resident: int = 0
    anonymous: int = 0

    def joined(self, other: Peak) -> Peak:
        """The higher of both."""
        return Peak(max(self.resident, other.resident), max(self.anonymous, other.anonymous))


class MemoryMeter:
    """Peak memory since the last `restart`, of every stage, and since the meter was made.

    The kernel's high-water mark is reset where that is allowed; elsewhere the peak is that of the whole process. There
    is no such mark of anonymous memory: it is read whenever the meter is asked, and between by `sampling`.
    """

    def __init__(self) -> None:
        self.whole = Peak()
        self.stages: dict[str, Peak] = {}
        self._stage = ""
        self.restart()

    def begin(self, stage: str) -> None:
        """What follows belongs to this stage; a name may come again, and an empty one counts for no stage."""
        self.restart()
        self._stage = stage

    def restart(self) -> None:
        """Begin a new period."""
        self._see(Peak(_status("VmHWM"), anonymous_bytes()))
        with suppress(OSError):
            _CLEAR.write_text("5")

    def peak(self) -> int:
        """Highest resident bytes of the period."""
        now = _status("VmHWM")
        self._see(Peak(now, anonymous_bytes()))
        return now

    @contextmanager
    def sampling(self, seconds: float = 0.02) -> Iterator[None]:
        """While this is open, a thread looks at anonymous memory every so often."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(seconds):
                self._see(Peak(0, anonymous_bytes()))

        thread = threading.Thread(target=watch, name="optcc-memory", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _see(self, peak: Peak) -> None:
        self.whole = self.whole.joined(peak)
        if self._stage:
            self.stages[self._stage] = self.stages.get(self._stage, Peak()).joined(peak)


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
