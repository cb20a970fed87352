"""Real models, each compiled once however many tests and test processes ask for it."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.needs import demo_model, package

LISTING = (
    "import sys; from optcc.cli.main import main; code = main(sys.argv[1:]);"
    "print(*sorted({'torch', 'transformers', 'onnxruntime'} & sys.modules.keys()), file=sys.stderr);"
    "sys.exit(code)"
)
"""A program that runs `optcc` and says last which of three large packages it imported."""


def optcc(
    *args: object, program: tuple[str, ...] = ("-m", "optcc"), seconds: int = 1000
) -> subprocess.CompletedProcess[str]:
    """Run `optcc` in a process of its own."""
    command = [sys.executable, *program, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, env={**os.environ})


@dataclass(frozen=True)
class Compiled:
    """An artifact and the report that its compile printed."""

    root: Path
    model: Path
    report: dict[str, Any]

    def bytes_on_disk(self) -> int:
        """All files, the report's too."""
        return sum(p.stat().st_size for p in self.root.rglob("*") if p.is_file())


def hold_prediction(report: dict[str, Any]) -> None:
    """What preflight said of a compile's bytes and memory must be near what was measured."""
    predicted, measured = report["preflight"]["predicted"], report["preflight"]["measured"]
    assert predicted["artifact_bytes"] == pytest.approx(measured["artifact_bytes"], rel=0.02)
    for key in ("anonymous_bytes", "peak_bytes"):
        print(f"{key}: predicted {predicted[key] / 1e6:.0f} MB, measured {measured[key] / 1e6:.0f} MB")
        assert predicted[key] == pytest.approx(measured[key], rel=0.15), (
            key,
            predicted["how"],
            report["memory"],
        )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock that other test processes wait for."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Workshop:
    """Compiles by name, once per test run, with one cache for all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def compile(self, model: str, recipe: str, *settings: str) -> Compiled:
        """The artifact of a demo model; the first caller compiles it, in a process of its own."""
        path = demo_model(model)
        out = self.folder / f"{model}-{recipe}"
        printed = out.with_suffix(".json")
        with _alone(out.with_suffix(".lock")):
            if not printed.exists():
                options = [word for setting in settings for word in ("--set", setting)]
                cache = self.folder / "cache"
                threads = f"target.threads={os.environ['OMP_NUM_THREADS']}"
                result = optcc(
                    "compile", path, recipe, "-o", out, "--cache", cache, "--no-speed", "--json",
                    "--set", threads, *options,
                )  # fmt: skip
                assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
                printed.write_text(result.stdout)
        return Compiled(out, path, json.loads(printed.read_text()))


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """One folder for all processes of a test run."""
    package("onnxruntime")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "workshop"
    folder.mkdir(exist_ok=True)
    return Workshop(folder)
