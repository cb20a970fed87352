"""What the machine can do at most, in a process of its own, so that figures can be read as shares of it.

    python -m benchmarks.cpu.limits THREADS

Prints one JSON object: `optcc.compile.roofline.limits.Limits` without its date.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from optcc.backends.onnxruntime.native.build import find_compiler
from optcc.compile.roofline.limits import measure_limits


def native_limits(threads: int = 1, piece: int = 3072) -> dict[str, float]:
    """What limits.cc measures: GB/s that one core reads in order (`read_gb_s`), GB/s that `threads` read in pieces of
    `piece` bytes anywhere (`pieces_gb_s`), 1e9 products of int8 a second of one core (`products_g_s`), and with several
    threads how long a line takes to another core and back (`round_trip_ns`)."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "limits"
        source = Path(__file__).with_name("limits.cc")
        options = ["-O3", "-march=native", "-pthread"]
        subprocess.run([*find_compiler(), *options, str(source), "-o", str(program)], check=True)
        command = [str(program), str(threads), str(piece)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    found = asdict(measure_limits(int(sys.argv[1])))
    del found["measured"]
    print(json.dumps(found))
