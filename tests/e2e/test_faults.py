"""The real SmolLM2 under faults: killed at random points, on a full disk, compiled twice."""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.needs import demo_model, package

pytestmark = [pytest.mark.e2e, pytest.mark.prove]

KILLS = 6
# A short check: what is proved here is not accuracy.
SHORT = ["check.tokens=192", "check.window=64", "check.data=[prose, code]", "check.limits.top1=0.5",
         "check.limits.nll=1", "check.limits.kl=0.1"]  # fmt: skip
PROGRAM = """
import sys
from pathlib import Path
from optcc.compile import CompileOptions, compile_model
from optcc.recipe import load_recipe

class Watch:
    def stage(self, name): print("stage", name, flush=True)
    def step(self, text, done, total): print("step", text, flush=True)

model, out, *settings = sys.argv[1:]
compile_model(model, load_recipe("cpu-int8", settings), Path(out), CompileOptions(speed=False), Watch())
"""


def command(out: Path) -> list[str]:
    """The compile as users start it, its report on stdout."""
    settings = [word for setting in SHORT for word in ("--set", setting)]
    model = str(demo_model("smollm2"))
    return [
        sys.executable,
        "-m",
        "optcc",
        "compile",
        model,
        "cpu-int8",
        "-o",
        str(out),
        "--no-speed",
        "--json",
        *settings,
    ]


def watched(out: Path) -> list[str]:
    """The same compile, which prints stages and finished passes as they come."""
    return [sys.executable, "-c", PROGRAM, str(demo_model("smollm2")), str(out), *SHORT]


def at(folder: Path) -> dict[str, str]:
    """An environment whose cache and temporary files lie in a folder."""
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    return {**os.environ, "OPTCC_CACHE": str(folder / "cache"), "TMPDIR": str(folder / "tmp")}


def files(root: Path) -> dict[str, bytes]:
    """Every file but the report, which holds timings."""
    found = ((p.relative_to(root), p) for p in sorted(root.rglob("*")) if p.is_file())
    return {str(name): p.read_bytes() for name, p in found if "report" not in name.parts}


@dataclass(frozen=True)
class Undisturbed:
    """A compile that nothing disturbs."""

    files: dict[str, bytes]
    passes: list[str]
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    package("onnxruntime")
    folder = tmp_path_factory.mktemp("undisturbed")
    began = time.perf_counter()
    result = subprocess.run(
        command(folder / "out"), env=at(folder), capture_output=True, text=True, timeout=1000
    )
    assert result.returncode == 0, result.stderr[-3000:]
    passes = [row["step"] for row in json.loads(result.stdout)["passes"]]
    return Undisturbed(files(folder / "out"), passes, time.perf_counter() - began)


def test_two_compiles_give_the_same_bytes(undisturbed: Undisturbed, tmp_path: Path) -> None:
    result = subprocess.run(
        [*command(tmp_path / "out"), "--no-cache"],
        env=at(tmp_path),
        capture_output=True,
        text=True,
        timeout=1000,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert files(tmp_path / "out") == undisturbed.files


@pytest.mark.parametrize("kill", range(KILLS))
def test_killed_anywhere_it_goes_on(undisturbed: Undisturbed, kill: int, tmp_path: Path) -> None:
    """One point in each sixth of the time that a compile takes."""
    share = (kill + random.Random(f"kill {kill}").random()) / KILLS
    child = subprocess.Popen(watched(tmp_path / "out"), env=at(tmp_path), stdout=subprocess.PIPE, text=True)
    with child:
        time.sleep(share * undisturbed.seconds)
        child.kill()
        seen = child.stdout.read().splitlines() if child.stdout else []
    finished = [line for line in seen if line.startswith("step ") and line[5:] in undisturbed.passes]
    print(f"killed at {share:.0%} of {undisturbed.seconds:.0f} s, after {len(finished)} passes: {seen[-1:]}")
    assert not (tmp_path / "out").exists() or files(tmp_path / "out") == undisturbed.files
    result = subprocess.run(
        command(tmp_path / "out"), env=at(tmp_path), capture_output=True, text=True, timeout=1000
    )
    assert result.returncode == 0, result.stderr[-3000:]
    rows = json.loads(result.stdout)["passes"]
    assert [row["step"] for row in rows] == undisturbed.passes
    # What had finished is not done again; the pass that was at work is.
    assert sum(row["cached"] for row in rows) >= len(finished)
    assert files(tmp_path / "out") == undisturbed.files
    assert {p.name for p in tmp_path.iterdir()} == {"cache", "tmp", "out"}


def assert_one_clear_error(folder: Path, limit: Callable[[], None] | None = None) -> str:
    """Compile where there is no room: exit 2, one error, nothing half-written. Returns what was said."""
    result = subprocess.run(
        command(folder / "out"),
        env=at(folder),
        capture_output=True,
        text=True,
        timeout=1000,
        preexec_fn=limit,
    )
    assert result.returncode == 2, result.stdout[-2000:] + result.stderr[-2000:]
    error = json.loads(result.stdout)["error"]
    assert error["code"] == "E605", error
    assert error["hint"]
    assert "Traceback" not in result.stderr
    assert {p.name for p in folder.iterdir()} <= {"cache", "tmp"}
    assert not [p for p in (folder / "cache").rglob("*") if p.name.startswith(".")]
    return f"{error['what']} ({error['where']})"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of so many MB."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(megabytes: int) -> Path:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "optcc", str(place)], capture_output=True
        )
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
        return place

    yield mount
    if os.path.ismount(place):
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("megabytes", [1, 100, 525, 600, 700, 800])
def test_full_disk(disk: Callable[[int], Path], megabytes: int) -> None:
    """No room for the converted GGUF file (538 MB), for quantized tensors, for the artifact (147 MB)."""
    print(f"{megabytes} MB: {assert_one_clear_error(disk(megabytes))}")


@pytest.mark.parametrize("megabytes", [1, 100])
def test_file_size_limit(tmp_path: Path, megabytes: int) -> None:
    """`ulimit -f`, which needs no rights: the same error."""
    size = megabytes << 20
    print(assert_one_clear_error(tmp_path, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))))
