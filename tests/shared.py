"""What one run of the tests makes once for all its processes: captured models, and a cache of compiles.

Capturing costs more than most tests do with what was captured. What is shared comes from the same sources and the same
run; tests of capture, of caching and of real models don't use it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optcc.compile import CompileOptions
from optcc.compile.cache import Entry, PassCache
from optcc.frontend import capture, resolve
from optcc.frontend.lift import to_module
from tests import zoo

FOLDER = Path(os.environ["OPTCC_TEST_SHARED"])
"""Made by tests/conftest.py, gone after the run."""


def quick() -> CompileOptions:
    """Options of a compile whose passes other tests may have run."""
    return CompileOptions(cache=FOLDER / "compiles", speed=False)


def captured(name: str, **changes: Any) -> Entry:
    """A zoo model's module and facts; it is the caller's own."""
    key = "-".join([name, *(f"{k}={v}" for k, v in sorted(changes.items()))])
    cache = PassCache(FOLDER / "captured")
    with _alone(FOLDER / f"{key}.lock"):
        if (found := cache.load(key)) is not None:
            return found
        program = capture(resolve(str(zoo.save(name, FOLDER / "models" / key, **changes))))
        cache.save(key, to_module(program, cache.tensors), [], dict(program.facts))
    made = cache.load(key)
    assert made is not None
    return made


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock that other test processes wait for."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
