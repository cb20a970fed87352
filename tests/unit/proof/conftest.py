"""A tiny model, a cache of its own, and recipes with planted faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from optcc.recipe import Recipe, load_recipe
from tests import zoo

FAULTY = Path(__file__).with_name("faulty.py")
LIMITS = "{kl: 0.05, top1: 0.1, nll: 1, greedy: 0}"

Recipes = Callable[..., Recipe]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A llama of three layers."""
    return str(zoo.save("llama", tmp_path_factory.mktemp("proof") / "llama"))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: recipes differ in few passes."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def recipe(tmp_path: Path) -> Recipes:
    """`recipe(fuse=["./faulty.py:Crash"])`: cpu-int8 on the interpreter, with these stages in place of its own."""

    def make(extends: str = "cpu-int8", **stages: str) -> Recipe:
        (tmp_path / "faulty.py").write_text(FAULTY.read_text())
        passes = "".join(f"\n  {stage}: {entries}" for stage, entries in stages.items())
        path = tmp_path / "recipe.yaml"
        path.write_text(
            f"version: 1\nextends: {extends}\ntarget: {{backend: reference, threads: 1}}\n"
            f"check: {{tokens: 64, window: 32, limits: {LIMITS}}}\n"
            + (f"passes:{passes}\n" if passes else "")
        )
        return load_recipe(str(path))

    return make
