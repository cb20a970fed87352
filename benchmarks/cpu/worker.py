"""The harness's end of the protocol: starts a worker, asks, and ends it."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.cpu.contestants import ROOT, Contestant

_THREADING = ("OMP_", "KMP_", "GOMP_", "MKL_")


class WorkerFailed(Exception):
    """A worker ended, answered with an error, or took too long; the text says which and where its log is."""


class Worker:
    """One process of one contestant; a context manager that ends it whatever happens.

    Args:
        contestant: whose worker.
        log: file that its standard error is added to.
        timeout: most seconds of one answer.
    """

    def __init__(self, contestant: Contestant, log: Path, timeout: float = 900.0) -> None:
        self._contestant = contestant
        self._log = log
        self._timeout = timeout
        self._rest = b""
        log.parent.mkdir(parents=True, exist_ok=True)
        # Engines set up their threads themselves; what the caller's shell says must not decide for some of them.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_THREADING)}
        env = {**inherited, "PYTHONPATH": str(ROOT), **contestant.env}
        self.started = time.perf_counter()
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [str(contestant.python), "-m", contestant.module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=env,
            )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def open(self, threads: int) -> dict[str, Any]:
        """Load the model; the version and the seconds it took."""
        contestant = self._contestant
        settings = dict(contestant.settings)
        return self.ask(do="open", model=str(contestant.model), threads=threads, settings=settings)

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request and its answer. Raises WorkerFailed."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._failed(f"ended with code {self._process.wait()}") from error
        answer: dict[str, Any] = json.loads(self._line(request["do"]))
        if "error" in answer:
            raise self._failed(f"`{request['do']}`: {answer['error']}")
        return answer

    def _line(self, asked: str) -> bytes:
        """The next line, within the time limit."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + self._timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise self._failed(f"no answer to `{asked}` in {self._timeout:.0f} s")
                piece = os.read(self._process.stdout.fileno(), 1 << 16)
                if not piece:
                    raise self._failed(f"ended with code {self._process.wait()} during `{asked}`")
                self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _failed(self, what: str) -> WorkerFailed:
        return WorkerFailed(f"{self._contestant.name}: {what}; log: {self._log.parent.name}/{self._log.name}")

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            with suppress(WorkerFailed, subprocess.TimeoutExpired):  # all was measured; it is ended below
                self.ask(do="close")
                self._process.wait(timeout=30)
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # what a dead worker never read
                    pipe.close()
