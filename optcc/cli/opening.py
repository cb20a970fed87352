"""Opening an artifact for running: shared by `run` and `bench`. Imports no torch itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optcc.artifact import Artifact
    from optcc.backends.protocol import Backend
    from optcc.runtime import ChatTemplate, Executor, Tokenizer
    from optcc.runtime.executor import CallExecutor


def open_artifact(directory: Path, force: bool) -> Artifact:
    """The artifact, every byte checked.

    Raises:
        NotAnArtifact, CorruptArtifact, IncompatibleArtifact, FailedArtifact.
    """
    from optcc.artifact import Artifact

    return Artifact.open(directory, force=force)


def open_running(directory: Path, force: bool, threads: int | None) -> tuple[Artifact, Executor]:
    """An artifact that generates text and its executor, which is made while the weights are still being hashed.

    Raises:
        What `open_artifact` and `open_decoder` raise.
    """
    from optcc.artifact import open_and_start

    def start(artifact: Artifact) -> Executor:
        return open_decoder(artifact, threads)

    return open_and_start(directory, start, lambda executor: executor.close(), force=force)


def open_decoder(artifact: Artifact, threads: int | None) -> Executor:
    """The executor of an artifact that generates text.

    Raises:
        NotATextModel: it doesn't.
        BackendUnavailable: its backend can't be used here.
    """
    require_decoder(artifact)
    return backend_of(artifact).open_decoder(artifact.root, artifact.spec, thread_count(artifact, threads))


def require_decoder(artifact: Artifact) -> None:
    """Raise NotATextModel unless the artifact generates text."""
    from optcc.errors import NotATextModel

    if artifact.kind != "decoder":
        names = ", ".join(artifact.spec["inputs"])
        raise NotATextModel(
            f"the artifact computes a function of {names}; it doesn't generate text",
            where=str(artifact.root),
            hint=f"optcc run {artifact.root} --inputs inputs.npz -o outputs.npz, with arrays called {names}",
        )


def open_function(artifact: Artifact, threads: int | None) -> CallExecutor:
    """The executor of an artifact that is a plain function. Raises BackendUnavailable."""
    return backend_of(artifact).open_function(artifact.root, artifact.spec, thread_count(artifact, threads))


def thread_count(artifact: Artifact, threads: int | None) -> int:
    """What was asked for, else what the artifact was compiled for; 0 is every physical core."""
    from optcc.host import physical_cores

    wanted = int(artifact.manifest.target["threads"]) if threads is None else threads
    return wanted or physical_cores()


def backend_of(artifact: Artifact) -> Backend:
    """Its backend. Raises BackendUnavailable."""
    from optcc.backends.registry import load_backend
    from optcc.errors import BackendUnavailable

    backend = load_backend(str(artifact.manifest.target["backend"]))
    found = backend.probe()
    if not found.ok:
        raise BackendUnavailable(
            f"the backend {backend.name} can't be used: {found.reason}", hint=found.install or None
        )
    return backend


def text_tools(artifact: Artifact) -> tuple[Tokenizer | None, ChatTemplate | None]:
    """The artifact's tokenizer and chat template, where it has them."""
    from optcc.runtime import ChatTemplate, Tokenizer

    if not artifact.has("tokenizer/tokenizer.json"):
        return None, None
    folder = artifact.root / "tokenizer"
    tokenizer = Tokenizer.load(folder)
    if not artifact.has("tokenizer/chat_template.jinja"):
        return tokenizer, None
    special = tokenizer.special
    return tokenizer, ChatTemplate.load(folder, bos_token=special.bos_token, eos_token=special.eos_token)
