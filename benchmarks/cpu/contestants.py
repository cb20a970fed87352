"""What is compared: an engine with one model in one format, and where everything lies on disk."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.cpu.steps import Step

ROOT = Path(__file__).resolve().parents[2]
PINS = Path(__file__).parent / "pins"


@dataclass(frozen=True)
class Contestant:
    """One column of the comparison.

    Attributes:
        peer, variant: its name is `peer/variant`.
        python: the interpreter that runs the worker.
        module: the worker.
        model: what the worker opens; its bytes on disk are what the artifact takes.
        settings: what else the worker is told.
        env: what is added to the worker's environment.
    """

    peer: str
    variant: str
    python: Path
    module: str
    model: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """How tables call it."""
        return f"{self.peer}/{self.variant}"

    @property
    def ours(self) -> bool:
        """Whether it is optcc."""
        return self.peer == "optcc"

    def disk_bytes(self) -> int:
        """Bytes of the model as this engine keeps it, tokenizer included where it lies beside."""
        if self.model.is_file():
            return self.model.stat().st_size
        return sum(path.stat().st_size for path in self.model.rglob("*") if path.is_file())


@dataclass(frozen=True)
class Entry:
    """A contestant and the steps that make its model."""

    contestant: Contestant
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Plan:
    """Everything about one peer: its environment once, then its models. A model that fails leaves the others."""

    peer: str
    environment: tuple[Step, ...]
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Place:
    """Where things lie: one folder per peer, `model` for what they share."""

    home: Path
    gguf: Path

    @classmethod
    def default_home(cls) -> Path:
        """`$OPTCC_BENCH_HOME`, or `~/.cache/optcc-bench`."""
        given = os.environ.get("OPTCC_BENCH_HOME")
        return Path(given).expanduser() if given else Path.home() / ".cache" / "optcc-bench"

    @property
    def checkpoint(self) -> Path:
        """The model as a transformers directory in float32, with its tokenizer: what converters read."""
        return self.home / "model" / "float32"

    @property
    def bfloat16(self) -> Path:
        """The same in bfloat16."""
        return self.home / "model" / "bfloat16"

    @property
    def inputs(self) -> Path:
        """Prompts and windows as token ids."""
        return self.home / "model" / "inputs.json"

    def folder(self, peer: str) -> Path:
        """A peer's own folder."""
        return self.home / peer

    def python(self, peer: str) -> Path:
        """The interpreter of a peer's environment."""
        return self.folder(peer) / "venv" / "bin" / "python"

    def shared_steps(self) -> tuple[Step, ...]:
        """The checkpoint and the inputs, made by optcc's own reader and tokenizer."""
        here = Path(__file__).parent

        def own(module: str, *arguments: Path) -> tuple[str, ...]:
            return (sys.executable, "-m", f"benchmarks.cpu.{module}", *map(str, arguments))

        path = {"PYTHONPATH": str(ROOT)}
        checkpoint = own("checkpoint", self.gguf, self.checkpoint, self.bfloat16)
        inputs = own("inputs", self.checkpoint, self.inputs)
        return (
            Step(
                "checkpoint",
                checkpoint,
                self.bfloat16,
                (here / "checkpoint.py",),
                _file_facts(self.gguf),
                path,
            ),
            Step("inputs", inputs, self.inputs, (here / "inputs.py",), sys.version, path),
        )


def environment(place: Place, peer: str) -> tuple[Step, ...]:
    """A virtual environment with exactly the pinned packages.

    Pins hold whole environments and are installed without dependencies: what peers ask for by themselves replaces
    the CPU build of torch by one for GPUs, or breaks it (see README.md).
    """
    folder, python = place.folder(peer) / "venv", place.python(peer)
    pins = PINS / f"{peer}.txt"
    install = (str(python), "-m", "pip", "install", "--no-deps", "-r", str(pins))
    return (
        Step("venv", (sys.executable, "-m", "venv", "--clear", str(folder)), python),
        Step(
            "install",
            install,
            python,
            (pins,),
            hint="torch==…+cpu comes from PyTorch's CPU index, which pip must know (PIP_EXTRA_INDEX_URL)",
        ),
    )


def _file_facts(path: Path) -> str:
    """Enough to notice another file without reading it all."""
    return f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" if path.is_file() else str(path)
