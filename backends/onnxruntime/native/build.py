"""Compiles the C++ below `src/`: used by the build hook while installing, and by `python -m tools.build_native`.

The standard library alone, and nothing of optcc: while a wheel is made there is nothing else. Environment:

    CXX, CXXFLAGS   compiler (may hold options, as in "ccache g++") and extra options
    OPTCC_NATIVE    "auto" (default), "off" (do not try), "require" (failing to build is an error)
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

LIBRARY = "liboptcc_ort.so"
RECORD = "build.json"

# No -march=native: a wheel may run on another machine. No contraction: a compiler that fuses products and sums in one
# place and not in another would make a row depend on its neighbours. No -ffast-math: linking with it changes the
# rounding of the whole process.
COMPILE = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-pthread",
    "-Wall",
    "-Wextra",
)

# Files named *_<key>.cc get these options; src/cpu.cc asks the processor for the same features.
X86_SETS = {
    "avx2": ("-mavx2", "-mfma", "-mf16c"),
    "avx2_vnni": ("-mavx2", "-mfma", "-mf16c", "-mavxvnni"),
    "avx512": (
        *("-mavx2", "-mfma", "-mf16c"),
        *("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx512vnni"),
    ),
}


class BuildFailed(Exception):
    """The library could not be built; the message is for the user."""


@dataclass(frozen=True)
class Record:
    """What a build left behind, kept as build.json beside the library.

    Attributes:
        reason: why there is no library; empty when there is one.
        compiler: its own first line, such as `g++ (Debian 12.2.0) 12.2.0`.
        sources: digest of the sources and options it was built from.
    """

    reason: str
    compiler: str
    sources: str

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self)) + "\n")


def build(src: Path, library: Path, objects: Path, extra: Sequence[str] = ()) -> Record:
    """Compile and link everything below `src` into `library`.

    Args:
        src: the folder of sources.
        library: what to make; only there when the record has no reason.
        objects: an empty folder for what lies between.
        extra: further options for compiler and linker, such as sanitizers.
    """
    digest = digest_of(src)
    if os.environ.get("OPTCC_NATIVE") == "off":
        return Record("switched off by OPTCC_NATIVE=off", "", digest)
    if sys.platform not in ("linux", "darwin"):
        return Record(f"not supported on {sys.platform}", "", digest)
    version = ""
    try:
        compiler = find_compiler()
        version = _version(compiler)
        _build(compiler, src, library, objects, [*shlex.split(os.environ.get("CXXFLAGS", "")), *extra])
    except BuildFailed as error:
        return Record(str(error), version, digest)
    return Record("", version, digest)


def _build(compiler: list[str], src: Path, library: Path, objects: Path, extra: list[str]) -> None:
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    sources = sorted(src.rglob("*.cc"))
    special = {path: key for path in sources if (key := _set_of(path))}

    def compile_one(path: Path, options: Sequence[str]) -> str:
        made = objects / ("-".join(path.relative_to(src).with_suffix("").parts) + ".o")
        # Paths as seen from src: no folder of this machine gets into the library.
        source = path.relative_to(src).as_posix()
        _run([*compiler, *COMPILE, *extra, *options, "-I.", "-c", source, "-o", str(made)], src)
        return str(made)

    def try_set(key: str) -> list[str]:
        """The objects of one instruction set; none when this compiler doesn't know it."""
        try:
            return [compile_one(path, X86_SETS[key]) for path, its in special.items() if its == key]
        except BuildFailed:
            if _knows(compiler, X86_SETS[key], objects):
                raise
            return []

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sets = dict(zip(X86_SETS, pool.map(try_set, X86_SETS))) if x86 else {}
        # A set that needs no file of its own is known all the same: one operator may have kernels that others lack.
        known = [key for key in sets if sets[key] or _knows(compiler, X86_SETS[key], objects)]
        have = [f"-DOPTCC_HAVE_{key.upper()}" for key in known]
        common = [path for path in sources if path not in special]
        made = [*pool.map(lambda path: compile_one(path, have), common), *chain(*sets.values())]
    link = ["-shared", "-pthread"]
    if sys.platform == "linux":
        link += ["-Wl,--version-script=exports.map"]
        # A sanitizer's functions are in the program that loads the library.
        link += [] if any(option.startswith("-fsanitize") for option in extra) else ["-Wl,-z,defs"]
    _run([*compiler, *made, *extra, *link, "-o", str(library)], src)


def _set_of(path: Path) -> str:
    """The instruction set a file is for: the longest key that ends its name."""
    keys = [key for key in X86_SETS if path.stem.endswith(f"_{key}")]
    return max(keys, key=len, default="")


def _knows(compiler: list[str], options: Sequence[str], objects: Path) -> bool:
    """Whether the compiler takes these options at all."""
    empty = objects / "empty.cc"
    empty.write_text("")
    try:
        _run([*compiler, *options, "-fsyntax-only", str(empty)], objects)
    except BuildFailed:
        return False
    return True


def digest_of(src: Path) -> str:
    """Of all sources and of how they are compiled."""
    found = hashlib.sha256(repr((COMPILE, X86_SETS)).encode())
    for path in sorted(p for p in src.rglob("*") if p.suffix in (".cc", ".h", ".inc", ".map")):
        found.update(f"{path.relative_to(src).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def find_compiler() -> list[str]:
    """The compiler command, from CXX or the usual names."""
    if os.environ.get("CXX"):
        return shlex.split(os.environ["CXX"])
    names = ("c++", "g++", "clang++")
    for name in names:
        if shutil.which(name):
            return [name]
    raise BuildFailed(f"no C++ compiler found (tried {', '.join(names)}; set CXX to choose one)")


def _version(compiler: list[str]) -> str:
    try:
        done = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildFailed(f"can't run {compiler[0]}: {error.strerror}") from error
    return (done.stdout.splitlines() or [""])[0]


def _run(command: list[str], folder: Path) -> None:
    """Run one compiler command; a failure becomes one readable line."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildFailed(f"can't run {command[0]}: {error.strerror}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        detail = next((line for line in lines if "error" in line), lines[-1] if lines else "no message")
        raise BuildFailed(f"{command[0]} exited with {done.returncode}: {detail}")


def install_in_tree(folder: Path, library: Path, record: Record) -> None:
    """Place a fresh build in the folder of this file, or remove a stale one.

    Rename, never overwrite: a running process may have the old file mapped.

    Raises:
        OSError: a read-only checkout.
    """
    (folder / LIBRARY).unlink(missing_ok=True)
    if not record.reason:
        part = folder / f".{LIBRARY}.new"
        shutil.copy2(library, part)
        part.replace(folder / LIBRARY)
    record.write(folder / RECORD)
