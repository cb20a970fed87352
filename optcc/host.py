"""Facts about the machine, read without importing any large package. Used by `optcc env` and by reports."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

# Instruction sets that decide which kernels run, in the order in which they are shown.
FLAGS = [
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
]


@dataclass(frozen=True)
class Host:
    """One machine. Sizes are bytes; `memory` is what this process may use, cgroup limits included."""

    python: str
    system: str
    cpu: str
    cpu_flags: tuple[str, ...]
    cores: int
    memory: int
    memory_free: int
    disk_free: int


def read_host(directory: Path, proc: Path = Path("/proc")) -> Host:
    """The facts of this machine; `disk_free` is of the file system that holds `directory`."""
    import psutil

    cpu, flags = read_cpu(proc / "cpuinfo")
    limit = memory_bytes()
    return Host(
        python=f"{platform.python_implementation()} {platform.python_version()}",
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=cpu or platform.processor() or platform.machine(),
        cpu_flags=tuple(flag for flag in FLAGS if flag in flags),
        cores=_cores(),
        memory=limit,
        memory_free=min(psutil.virtual_memory().available, limit),
        disk_free=shutil.disk_usage(directory).free,
    )


def memory_bytes() -> int:
    """What this process may use, a container's limit included."""
    import psutil

    total: int = psutil.virtual_memory().total
    return min(total, cgroup_limit(Path("/sys/fs/cgroup")) or total)


def read_cpu(cpuinfo: Path) -> tuple[str, frozenset[str]]:
    """Model name and feature flags of the first core in a Linux `cpuinfo`; empty without such a file."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        return "", frozenset()
    fields = dict[str, str]()
    for line in text.partition("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    return fields.get("model name", ""), frozenset(fields.get("flags", fields.get("Features", "")).split())


def cgroup_limit(root: Path) -> int | None:
    """The memory limit of a container in bytes, None where there is none."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (root / name).read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdigit() else None
    return None


def package_versions(names: Iterable[str]) -> dict[str, str | None]:
    """Installed version of each distribution, None if it isn't installed. Imports none of them."""

    def version(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    return {name: version(name) for name in names}


def _cores() -> int:
    """Cores this process may run on, which a container or `taskset` makes fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def physical_cores() -> int:
    """Physical cores this process may use: what `threads: 0` means. Two hardware threads share one core's units."""
    import psutil

    return max(1, min(psutil.cpu_count(logical=False) or 1, _cores()))


def host_facts() -> dict[str, object]:
    """The facts of this machine that explain a measurement, for reports."""
    host = read_host(Path.cwd())
    return {
        "system": host.system,
        "cpu": host.cpu,
        "cpu_flags": list(host.cpu_flags),
        "cores": host.cores,
        "memory": host.memory,
    }
