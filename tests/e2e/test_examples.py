"""The examples do what their pages say, on a tiny model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import zoo


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama without a tokenizer."""
    return zoo.save("llama", tmp_path_factory.mktemp("examples") / "llama")


def run(root: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command with an `optcc` on the path that is this source tree."""
    tools = folder / "bin"
    tools.mkdir()
    (tools / "optcc").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m optcc "$@"\n')
    (tools / "optcc").chmod(0o755)
    env = {**os.environ, "PYTHONPATH": str(root), "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    env["OPTCC_CACHE"] = str(folder / "cache")
    return subprocess.run(command, capture_output=True, text=True, timeout=1000, env=env, cwd=folder)


def test_add_a_pass(root: Path, model: Path, tmp_path: Path) -> None:
    example = Path(shutil.copytree(root / "examples" / "add_a_pass", tmp_path / "add_a_pass"))
    assert len((example / "prune.py").read_text().splitlines()) < 30
    quick = [
        "--set",
        "target.backend=reference",
        "--set",
        "check.tokens=512",
        "--set",
        "check.limits.top1=0.8",
    ]
    quick += ["--set", "check.limits.nll=0.1", "--no-speed"]
    result = run(root, tmp_path, str(example / "run.sh"), str(model), str(tmp_path / "out"), *quick)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "below: float, default 0.01" in result.stdout
    assert "  ./prune.py:Prune," in result.stdout
    assert "set to zero" in " ".join(result.stdout.split())
    assert (tmp_path / "out" / "manifest.json").is_file()


def test_python_api(root: Path, model: Path, tmp_path: Path) -> None:
    result = run(root, tmp_path, sys.executable, str(root / "examples" / "python_api.py"), str(model))
    assert result.returncode == 0, result.stderr
    assert "quantize.linear{scheme=int8-g64}: " in result.stdout
    assert "optcc.dequantize.default" in result.stdout
    assert "largest logit" in result.stdout
