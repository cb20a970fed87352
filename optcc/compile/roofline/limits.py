"""What this machine can do at most, measured once a day and kept in the cache with its date."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from optcc.artifact.digest import sha256_bytes
from optcc.cache import default_cache
from optcc.host import read_cpu

_BYTES = 256 << 20
_SIDE = 1024
_TIMES = 5
_DAY = 24 * 3600


@dataclass(frozen=True)
class Limits:
    """Rates of one machine with a number of threads.

    Attributes:
        threads: that worked.
        read_gb_s: bytes read from memory, in GB/s: a sum over 256 MB, several times the largest caches.
        fp32_gops: operations of float32 products of 1024 x 1024 matrices, in 1e9 a second; a multiply-add is two.
        int8_gops: the same of int8 products; float32's where torch has no faster product of int8.
        measured: when, in UTC.
    """

    threads: int
    read_gb_s: float
    fp32_gops: float
    int8_gops: float
    measured: str


def machine_limits(threads: int, cache: Path | None = None) -> Limits:
    """The limits of this machine: from the cache if they are less than a day old.

    Args:
        threads: that work.
        cache: directory of the cache; None for the default one.
    """
    cpu, flags = read_cpu(Path("/proc/cpuinfo"))
    host = f"{platform.node()} {cpu} {sorted(flags)} {torch.__version__} {threads}"
    path = (cache or default_cache()) / "limits" / f"{sha256_bytes(host.encode())[:16]}.json"
    with suppress(OSError, ValueError, TypeError):
        if time.time() - path.stat().st_mtime < _DAY:
            return Limits(**json.loads(path.read_text()))
    found = measure_limits(threads)
    with suppress(OSError):  # a cache that can't be written is measured again
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(found)))
    return found


def measure_limits(threads: int) -> Limits:
    """Measure now; takes about a second. The best of some runs: a limit is what was reached once."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        data, side = torch.ones(_BYTES // 4), torch.ones(_SIDE, _SIDE)
        operations = 2.0 * _SIDE**3
        read = _BYTES / _best(lambda: data.sum())
        wide = operations / _best(lambda: side @ side)
        narrow, a = wide, torch.ones(_SIDE, _SIDE, dtype=torch.int8)
        with suppress(RuntimeError, AttributeError):  # not every processor has it
            narrow = max(wide, operations / _best(lambda: torch._int_mm(a, a)))
    finally:
        torch.set_num_threads(before)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Limits(threads, round(read / 1e9, 2), round(wide / 1e9, 1), round(narrow / 1e9, 1), now)


def _best(work: Callable[[], object]) -> float:
    """Seconds of the fastest of some runs, after one that warms up."""
    work()
    seconds = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
