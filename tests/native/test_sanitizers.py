"""The suite of the native operators with the address and undefined-behaviour sanitizers watching."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from optcc.backends.onnxruntime import native
from optcc.backends.onnxruntime.native import build

OPTIONS = [
    "-O1",
    "-g",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
]
PLUGIN = """
from pathlib import Path
from optcc.backends.onnxruntime import native
native._folder = lambda: Path({folder!r})
"""


def _file(compiler: list[str], name: str) -> str:
    """Where the compiler finds a library; the bare name when it has none."""
    command = [*compiler, f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


@pytest.mark.prove
def test_sanitizers_find_nothing(root: Path, tmp_path: Path) -> None:
    """Runs in a process of its own: the sanitizer must be loaded before everything else."""
    if not native.status().ok:
        pytest.skip(str(native.status()))
    compiler = build.find_compiler()
    runtime = _file(compiler, "libasan.so")
    if not Path(runtime).is_absolute():
        pytest.skip(f"{compiler[0]} has no libasan.so, which is loaded before Python")
    record = build.build(Path(build.__file__).parent / "src", tmp_path / build.LIBRARY, tmp_path, OPTIONS)
    assert not record.reason
    record.write(tmp_path / build.RECORD)
    (tmp_path / "watched.py").write_text(PLUGIN.format(folder=str(tmp_path)))
    environment = os.environ | {
        # With the C++ library: the sanitizer looks for its throw while starting, and Python alone has none.
        "LD_PRELOAD": f"{runtime}:{_file(compiler, 'libstdc++.so.6')}",
        # Python and torch end without freeing everything, and torch mixes allocators.
        "ASAN_OPTIONS": "detect_leaks=0:alloc_dealloc_mismatch=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}",
    }
    environment.pop("OPTCC_PROVE", None)
    suites = [
        str(path)
        for path in sorted((root / "tests/native").glob("test_*.py"))
        if path.name != Path(__file__).name
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "watched", "-p", "no:xdist", *suites]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
