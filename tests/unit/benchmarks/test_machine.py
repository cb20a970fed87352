"""Who used the CPUs, from the kernel's counters, and memory of a real process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cpu.machine import CpuTimes, MemoryWatch, wait_until_quiet


def write(proc: Path, busy: int, idle: int, steal: int, own: int) -> CpuTimes:
    """Counters as the kernel prints them, with a process whose name holds a parenthesis and a blank."""
    (proc / "7").mkdir(exist_ok=True, parents=True)
    (proc / "stat").write_text(f"cpu  {busy} 0 0 {idle} 0 0 0 {steal} 99 99\ncpu0 1 2 3\n")
    (proc / "7" / "stat").write_text(f"7 (a) b) S 1 1 1 0 -1 0 0 0 0 0 {own} 0 0 0 20 0 1 0 5 0 0\n")
    return CpuTimes.read(7, proc)


def test_others_are_what_is_neither_idle_nor_own(tmp_path: Path) -> None:
    before = write(tmp_path, busy=0, idle=0, steal=0, own=0)
    alone = write(tmp_path, busy=100, idle=100, steal=0, own=100)
    assert alone.others_since(before) == 0.0
    shared = write(tmp_path, busy=100, idle=100, steal=0, own=60)
    assert shared.others_since(before) == pytest.approx((40 - 3) / 200)
    stolen = write(tmp_path, busy=100, idle=50, steal=50, own=100)
    assert stolen.others_since(before) == pytest.approx((50 - 3) / 200)
    assert before.others_since(before) == 0.0


def test_a_process_that_is_gone_used_nothing(tmp_path: Path) -> None:
    write(tmp_path, 1, 1, 1, 1)
    assert CpuTimes.read(8, tmp_path).own == 0


def test_waiting_ends_with_patience_or_quiet() -> None:
    slept: list[float] = []
    assert wait_until_quiet(None, 1.0, patience=10, sleep=slept.append) <= 1.0
    assert len(slept) == 1, "any share is quiet enough"
    slept.clear()
    wait_until_quiet(None, -1.0, patience=2, look=0.4, sleep=slept.append)
    assert len(slept) == 5


def test_peaks_are_seen(tmp_path: Path) -> None:
    """50 MB for a moment."""
    program = "import time; a = bytearray(50_000_000); time.sleep(0.4); del a; print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        watch = MemoryWatch(process.pid)
        assert process.stdout is not None
        process.stdout.readline()
        resident, anonymous = watch.stop()
        process.communicate(b"\n")
    assert 50e6 < anonymous < 80e6
    assert resident > anonymous
    assert CpuTimes.read(os.getpid()).own > 0
