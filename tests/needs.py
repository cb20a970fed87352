"""What a test needs besides the core: packages and real models. Missing, it skips here and fails in CI.

A skipped test proves nothing, so where `CI` or `OPTCC_REQUIRE_MODELS` is set (`.ci/run` sets it) everything must be
there.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest

from tools.demo_models import model_path


def required() -> bool:
    """Whether a missing package is a failure."""
    return any(os.environ.get(name, "0") not in ("", "0") for name in ("CI", "OPTCC_REQUIRE_MODELS"))


def _missing(what: str) -> NoReturn:
    if required():
        pytest.fail(f"{what}; a test run with CI or OPTCC_REQUIRE_MODELS set may not skip", pytrace=False)
    pytest.skip(what, allow_module_level=True)


def package(name: str) -> ModuleType:
    """The imported package."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        _missing(f"the package {name} can't be imported: {error}")


def demo_model(name: str) -> Path:
    """Where a real model lies, `smollm2` or `minilm`."""
    try:
        return model_path(name)
    except FileNotFoundError as error:
        _missing(str(error))
