"""What the machine can do at most, in a process of its own, so that figures can be read as shares of it.

    python -m benchmarks.cpu.limits THREADS

Prints one JSON object: `optcc.compile.roofline.limits.Limits` without its date.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from optcc.compile.roofline.limits import measure_limits

if __name__ == "__main__":
    found = asdict(measure_limits(int(sys.argv[1])))
    del found["measured"]
    print(json.dumps(found))
