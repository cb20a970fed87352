"""One bench for all tests: each model is written and captured once."""

from __future__ import annotations

import pytest

from tests.faults.bench import Bench
from tests.needs import package


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """In a folder of this process."""
    package("onnxruntime")
    return Bench(tmp_path_factory.mktemp("faults"))
