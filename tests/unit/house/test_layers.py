"""The layering linter finds what it is there to find, and finds nothing in this tree."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tools.layers import breaches, is_torch_free, module_name, sources


def found(module: str, source: str) -> list[str]:
    return [what for _, what in breaches(module, ast.parse(source))]


def test_the_tree_has_no_breach() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tools.layers"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("optcc.ir.module", "from optcc.pm import Pass"),
        ("optcc.pm.run", "def f():\n    from optcc.passes.fuse.qkv import Qkv"),
        ("optcc.artifact.store", "from optcc.ir import Module"),
        ("optcc.runtime.engine", "import optcc.backends"),
        ("optcc.frontend.gguf", "from optcc.accuracy import metrics"),
        ("optcc.passes.fuse.qkv", "from optcc import compile"),
        ("optcc.backends.onnxruntime.lower", "from optcc.backends.tensorrt import plan"),
        ("optcc.errors", "from optcc.ir import Module"),
        ("optcc.ir.module", "from backends.reference import probe"),
        ("optcc.accuracy.metrics", "def f():\n    import transformers"),
        ("optcc.backends.reference.executor", "def f():\n    import onnxruntime"),
        ("optcc.backends.onnxruntime.executor", "import onnx_ir"),
        ("optcc.runtime.sampler", "import torch"),
        ("optcc.backends.onnxruntime.session", "from torch import Tensor"),
        ("optcc.cli.run", "from optcc.compile import compile_model"),
        ("optcc.recipe.load", "from optcc.pm import Pass"),
    ],
)
def test_breach_is_found(module: str, source: str) -> None:
    assert found(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("optcc.pm.run", "from optcc.ir import Module"),
        ("optcc.compile", "import optcc.backends.onnxruntime.lower"),
        ("optcc.cli.run", "def f():\n    from optcc.compile import compile_model"),
        (
            "optcc.recipe.load",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from optcc.pm import Pass",
        ),
        ("optcc.backends.onnxruntime.lower", "import torch\ndef f():\n    import onnx_ir"),
        ("optcc.backends.onnxruntime", "from optcc.backends.reference import run"),
        ("optcc.artifact", "from optcc.errors import CorruptArtifact\nfrom optcc import __version__"),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    allowed = [what for what in found(module, source) if "inside a function: it loads" not in what]
    assert allowed == []


def test_zone_imports_no_torch(root: Path) -> None:
    """What the linter reads off the sources, tried: import the torch-free zone in a fresh interpreter."""
    zone = sorted(name for name in map(module_name, sources(root)) if is_torch_free(name))
    zone.remove("optcc.__main__")
    program = f"""
import importlib, sys
for name in {zone!r}:
    importlib.import_module(name)
print(*sorted({{'torch', 'transformers', 'onnxruntime', 'onnx', 'gguf'}} & sys.modules.keys()))
"""
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ""
