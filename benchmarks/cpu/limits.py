"""What the machine can do at most, so that figures can be read as shares of it.

    python -m benchmarks.cpu.limits THREADS

Prints one JSON object: read bandwidth in GB/s (a sum over 256 MB, eight times the largest caches; best of ten), and
fp32 and int8 products of 1024 x 1024 matrices in billions of operations a second (two for a multiply-add; best of ten).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import torch

_BYTES = 256 << 20
_SIZE = 1024
_TIMES = 10


def measure_limits(threads: int) -> dict[str, float]:
    """`threads`, `read_gb_s`, `fp32_gops` and, where torch has the product, `int8_gops`."""
    torch.set_num_threads(threads)
    data = torch.ones(_BYTES // 4)
    left, right = torch.randn(_SIZE, _SIZE), torch.randn(_SIZE, _SIZE)
    operations = 2.0 * _SIZE**3
    found = {
        "threads": float(threads),
        "read_gb_s": _BYTES / _best(lambda: data.sum()) / 1e9,
        "fp32_gops": operations / _best(lambda: left @ right) / 1e9,
    }
    a, b = (torch.randint(-127, 127, (_SIZE, _SIZE), dtype=torch.int8) for _ in range(2))
    with suppress(RuntimeError):  # not every processor has it
        found["int8_gops"] = operations / _best(lambda: torch._int_mm(a, b)) / 1e9
    return found


def _best(work: Callable[[], object]) -> float:
    """Seconds of the fastest of some runs, after one that warms up."""
    work()
    seconds = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


if __name__ == "__main__":
    print(json.dumps(measure_limits(int(sys.argv[1]))))
