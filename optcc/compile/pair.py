"""Original and artifact, both open: what the check compares and the speed measurement times, opened once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from optcc.artifact import Manifest
from optcc.backends.protocol import Backend
from optcc.backends.registry import load_backend
from optcc.compile.original import Original
from optcc.compile.texts import text_tools
from optcc.frontend import LoadOptions, ModelSource
from optcc.runtime.executor import CallExecutor, Executor


@dataclass(frozen=True)
class Subject:
    """A model to check against: where it came from and how it was loaded."""

    source: ModelSource
    options: LoadOptions


class Pair:
    """A model and what was compiled from it. Each side is opened when it is first used.

    Args:
        root: the artifact's directory; its hashes are not looked at.
        manifest: of the artifact.
        subject: the original.
        threads: 0 means one per physical core.
    """

    def __init__(self, root: Path, manifest: Manifest, subject: Subject, threads: int) -> None:
        self.root, self.manifest, self.subject, self.threads = root, manifest, subject, threads
        self.tools = text_tools(root)

    @cached_property
    def original(self) -> Original:
        """The user's model."""
        return Original(self.subject.source, self.subject.options)

    @cached_property
    def decoder(self) -> Executor:
        """The artifact's executor."""
        return self._backend().open_decoder(self.root, self.manifest.spec, self.threads)

    @cached_property
    def function(self) -> CallExecutor:
        """The artifact as a function."""
        return self._backend().open_function(self.root, self.manifest.spec, self.threads)

    def _backend(self) -> Backend:
        return load_backend(str(self.manifest.target["backend"]))

    def rest(self) -> None:
        """Close the artifact's executor until it is asked for again: its weights needn't be mapped meanwhile."""
        if "decoder" in self.__dict__:
            self.decoder.close()
            del self.__dict__["decoder"]

    def close(self) -> None:
        """Close what was opened."""
        self.rest()
        for name in ("original", "function"):
            self.__dict__.pop(name, None)


@contextmanager
def open_pair(root: Path, manifest: Manifest, subject: Subject, threads: int) -> Iterator[Pair]:
    """A Pair that is closed at the end."""
    pair = Pair(root, manifest, subject, threads)
    try:
        yield pair
    finally:
        pair.close()
