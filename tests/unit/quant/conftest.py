"""Captured zoo models for tests of quantization."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from optcc.ir.module import Module
from optcc.pm import Context, parse_pipeline, run_pipeline
from tests import shared
from tests.unit.passes.pipelines import CANONICALIZE

Canonical = Callable[[str], Module]


@pytest.fixture(scope="session")
def canonical() -> Canonical:
    """A zoo model by name, captured and canonical; a clone for every call."""

    @cache
    def get(name: str) -> Module:
        module = shared.captured(name).module
        run_pipeline(module, parse_pipeline(CANONICALIZE), Context())
        return module

    return lambda name: get(name).clone()
