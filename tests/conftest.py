"""Options and settings that all tests share."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

# Before anything imports torch: each worker gets its share of the cores.
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _WORKERS)))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "OPTCC_TEST_SHARED" not in os.environ:  # the first process; its workers inherit it
    os.environ["OPTCC_TEST_SHARED"] = tempfile.mkdtemp(prefix="optcc-tests-")
    atexit.register(shutil.rmtree, os.environ["OPTCC_TEST_SHARED"], ignore_errors=True)

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent

# Timeouts are there for hangs, not for speed: a slow machine with two test processes stays far below them.
E2E_SECONDS = 1200
LONG_SECONDS = 3600

# The first example of a test that touches torch pays for its imports, so no deadline.
_SLOW_START = (HealthCheck.too_slow,)
settings.register_profile(
    "test", max_examples=40, deadline=None, suppress_health_check=_SLOW_START, derandomize=True
)
settings.register_profile("prove", max_examples=1000, deadline=None, suppress_health_check=_SLOW_START)
settings.load_profile("prove" if os.environ.get("OPTCC_PROVE") else "test")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite the golden files instead of comparing"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """More time for tests that start processes and compile real models, and for long ones."""
    for item in items:
        if item.get_closest_marker("timeout") is None:
            long = item.get_closest_marker("prove") is not None
            if long or item.get_closest_marker("e2e") is not None or "e2e" in item.path.parts:
                item.add_marker(pytest.mark.timeout(LONG_SECONDS if long else E2E_SECONDS))


@pytest.fixture(scope="session")
def update_golden(pytestconfig: pytest.Config) -> bool:
    """Whether to rewrite golden files."""
    return bool(pytestconfig.getoption("--update-golden"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT
