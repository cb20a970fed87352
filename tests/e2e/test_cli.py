"""The command line as users start it: separate processes, ONNX Runtime, and no torch where none is needed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import zoo
from tests.needs import package
from tests.unit.cli.conftest import save_tokenizer

LISTING = (
    "import sys; from optcc.cli.main import main; code = main(sys.argv[1:]);"
    "print(*sorted({'torch', 'transformers', 'onnx', 'onnxruntime'} & sys.modules.keys()), file=sys.stderr);"
    "sys.exit(code)"
)


def optcc(*args: object, program: tuple[str, ...] = ("-m", "optcc")) -> subprocess.CompletedProcess[str]:
    """Run `optcc` in a process of its own."""
    command = [sys.executable, *program, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=1000, env={**os.environ})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, and an int8 artifact of it for ONNX Runtime."""
    package("onnxruntime")
    folder = tmp_path_factory.mktemp("e2e")
    save_tokenizer(zoo.save("llama", folder / "talker", vocab_size=320))
    options = ["--set", "check.tokens=512", "--set", "check.window=64", "--set", "check.data=[prose, code]"]
    # A random model of this size loses more to rounding than a trained one.
    options += [
        "--set",
        "check.limits.kl=0.5",
        "--set",
        "check.limits.top1=0.3",
        "--set",
        "check.limits.nll=1",
    ]
    result = optcc(
        "compile",
        folder / "talker",
        "cpu-int8",
        "-o",
        folder / "art",
        "--cache",
        folder / "cache",
        *options,
        "--json",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (folder / "compile.json").write_text(result.stdout)
    return folder


def test_compile_reports_everything(place: Path) -> None:
    data = json.loads((place / "compile.json").read_text())
    assert data["status"] == "ok"
    assert data["ledger"]["quantized"] > 0
    assert data["speed"]["ratio"].keys() == {"prefill", "decode"}
    assert all(row["found"] >= row["expected"] for row in data["fusions"]), data["fusions"]


def test_run_imports_neither_torch_nor_transformers(place: Path) -> None:
    result = optcc("run", place / "art", "hello", "--max-tokens", "6", program=("-c", LISTING))
    assert result.returncode == 0, result.stderr
    loaded = result.stderr.splitlines()[-1].split()
    assert "onnxruntime" in loaded
    assert {"torch", "transformers"} & set(loaded) == set()
    assert "6 tokens" in result.stderr


def test_bench_imports_no_torch_either(place: Path) -> None:
    small = ["--requests", "2", "--prompt-tokens", "8", "--new-tokens", "4", "--rounds", "1", "--json"]
    result = optcc("bench", "offline", place / "art", *small, program=("-c", LISTING))
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["decode"]["median"] > 0
    assert "torch" not in result.stderr.splitlines()[-1].split()


def test_one_flipped_byte_is_found(place: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(place / "art", tmp_path / "art"))
    model = damaged / "model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    result = optcc("run", damaged, "hello")
    assert (result.returncode, result.stdout) == (2, "")
    assert "error [E602]" in result.stderr
    assert "model.onnx" in result.stderr
    assert "Traceback" not in result.stderr
