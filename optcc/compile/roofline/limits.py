"""What this machine can do at most: the best of a day's measurements, kept in the cache with their date."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import torch

from optcc.artifact.digest import sha256_bytes
from optcc.cache import default_cache
from optcc.host import read_cpu

_BYTES = 128 << 20
_SIDE = 1024
_TIMES = 5


@dataclass(frozen=True)
class Limits:
    """Rates of one machine with a number of threads.

    Attributes:
        threads: that worked.
        read_gb_s: bytes read from memory in order, in GB/s: a sum over 128 MB, several times the largest caches.
        fp32_gops: operations of float32 products of 1024 x 1024 matrices, in 1e9 a second; a multiply-add is two.
        int8_gops: the same of int8 products; float32's where torch has no faster product of int8.
        measured: when the first of these measurements was made, in UTC.
    """

    threads: int
    read_gb_s: float
    fp32_gops: float
    int8_gops: float
    measured: str

    def or_better(self, known: Limits) -> Limits:
        """The higher rate of each kind, with the other's date."""
        return Limits(
            self.threads,
            max(self.read_gb_s, known.read_gb_s),
            max(self.fp32_gops, known.fp32_gops),
            max(self.int8_gops, known.int8_gops),
            known.measured,
        )


def machine_limits(threads: int, cache: Path | None = None) -> Limits:
    """The limits of this machine: measured now, and each the best of what was reached in a day, for a machine that is
    busy reaches less.

    Args:
        threads: that work.
        cache: directory of the cache; None for the default one.
    """
    cpu, flags = read_cpu(Path("/proc/cpuinfo"))
    host = f"{platform.node()} {cpu} {sorted(flags)} {torch.__version__} {threads}"
    path = (cache or default_cache()) / "limits" / f"{sha256_bytes(host.encode())[:16]}.json"
    found = measure_limits(threads)
    with suppress(OSError, ValueError, TypeError):
        known = Limits(**json.loads(path.read_text()))
        if datetime.now(UTC) - datetime.fromisoformat(known.measured) < timedelta(days=1):
            found = found.or_better(known)
    with suppress(OSError):  # a cache that can't be written is no harm
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
        with suppress(
            RuntimeError, AttributeError
        ):  # MKL reaches half of some processors that are not Intel's
            linear = torch.ops.mkldnn._linear_pointwise
            wide = max(wide, operations / _best(lambda: linear(side, side, None, "none", [], "")))
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
