"""What the kernel says about the machine and a process: who used the CPUs, how much memory, how busy it is."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_SLACK_TICKS = 3
"""Counters advance in ticks (10 ms), each processor's on its own: a few of them are rounding, not somebody's work."""


@dataclass(frozen=True)
class CpuTimes:
    """Ticks since the machine started: `total` of all processors, `idle` of them unused, `own` by one process."""

    total: int
    idle: int
    own: int

    @classmethod
    def read(cls, pid: int | None = None, proc: Path = _PROC) -> CpuTimes:
        """Now. A process that is gone has used nothing."""
        fields = [int(text) for text in (proc / "stat").read_text().splitlines()[0].split()[1:]]
        # user nice system idle iowait irq softirq steal; guest time is in user already
        return cls(
            sum(fields[:8]), fields[3] + fields[4], 0 if pid is None else _process_ticks(proc / str(pid))
        )

    def others_since(self, earlier: CpuTimes) -> float:
        """Share of all processors' time that somebody but the process used, time stolen from the machine included."""
        total = self.total - earlier.total
        busy = total - (self.idle - earlier.idle)
        others = busy - (self.own - earlier.own) - _SLACK_TICKS
        return max(0.0, others / total) if total > 0 else 0.0


def _process_ticks(folder: Path) -> int:
    try:
        text = (folder / "stat").read_text()
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()  # the name, in parentheses, may hold blanks
    return int(fields[11]) + int(fields[12])


def load_average() -> float:
    """Of the last minute."""
    return os.getloadavg()[0]


def wait_until_quiet(
    pid: int | None,
    most_others: float,
    patience: float,
    look: float = 0.4,
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """Wait until others use at most a share of the CPUs.

    Args:
        pid: a process that is not "others".
        most_others: the share.
        patience: seconds after which waiting ends whatever was seen.
        look: seconds of one look.

    Returns: the share of the last look.
    """
    looks = max(1, int(patience / look))
    others = 1.0
    for _ in range(looks):
        before = CpuTimes.read(pid)
        sleep(look)
        others = CpuTimes.read(pid).others_since(before)
        if others <= most_others:
            break
    return others


def status_bytes(pid: int, key: str, proc: Path = _PROC) -> int:
    """A size of /proc/PID/status; 0 when the process is gone."""
    try:
        lines = (proc / str(pid) / "status").read_text().splitlines()
    except OSError:
        return 0
    found = [line.split()[1] for line in lines if line.startswith(key + ":")]
    return int(found[0]) * 1024 if found else 0


class MemoryWatch:
    """Peak memory of a process while it is watched.

    The kernel keeps a high-water mark of resident memory; of its anonymous part it doesn't, so that is looked at
    every 50 ms and a shorter peak may be missed.
    """

    def __init__(self, pid: int, every: float = 0.05) -> None:
        self._pid = pid
        self._every = every
        self._anonymous = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(self._every):
            self._anonymous = max(self._anonymous, status_bytes(self._pid, "RssAnon"))

    def stop(self) -> tuple[int, int]:
        """Peak resident and peak anonymous bytes. Call it while the process is alive."""
        self._ended.set()
        self._thread.join()
        return status_bytes(self._pid, "VmHWM"), max(self._anonymous, status_bytes(self._pid, "RssAnon"))
