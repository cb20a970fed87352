"""Captured zoo models for tests of quantization."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from optcc.frontend import capture, resolve
from optcc.frontend.lift import to_module
from optcc.ir.module import Module
from optcc.pm import Context, parse_pipeline, run_pipeline
from tests import zoo
from tests.unit.passes.pipelines import CANONICALIZE

Canonical = Callable[[str], Module]


@pytest.fixture(scope="session")
def canonical(tmp_path_factory: pytest.TempPathFactory) -> Canonical:
    """A zoo model by name, captured and canonical; a clone for every call."""
    root: Path = tmp_path_factory.mktemp("zoo")

    @cache
    def get(name: str) -> Module:
        module = to_module(capture(resolve(str(zoo.save(name, root / name)))))
        run_pipeline(module, parse_pipeline(CANONICALIZE), Context())
        return module

    return lambda name: get(name).clone()
