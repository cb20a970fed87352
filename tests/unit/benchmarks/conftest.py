import sys
from pathlib import Path

import pytest

from benchmarks.cpu.contestants import Contestant


def make_contestant(model: Path, name: str = "fake/plain", **settings: str) -> Contestant:
    """The fake peer, under this Python."""
    peer, _, variant = name.partition("/")
    model.write_bytes(b"0" * 1000)
    return Contestant(peer, variant, Path(sys.executable), "tests.unit.benchmarks.fake_peer", model, settings)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "worker.log"
