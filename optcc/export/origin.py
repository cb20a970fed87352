"""Where an export starts: an artifact, or a model and a recipe."""

from __future__ import annotations

from pathlib import Path

from optcc.artifact import Artifact
from optcc.backends.registry import load_backend
from optcc.errors import ExportRefused
from optcc.export.hf import Origin
from optcc.frontend.origin import ORIGIN
from optcc.ir.module import Module

_TOKENIZER = ("tokenizer.json", "chat_template.jinja")


def open_for_export(root: Path, *, force: bool = False) -> tuple[Module, Origin]:
    """The module of an artifact and what its model has besides weights; every byte is checked.

    Raises:
        NotAnArtifact, CorruptArtifact, IncompatibleArtifact, FailedArtifact: as when it is run.
        ExportRefused: it wasn't made from a transformers model.
    """
    artifact = Artifact.open(root, force=force)
    files = {name: root / "tokenizer" / name for name in _TOKENIZER if artifact.has(f"tokenizer/{name}")}
    kept = [name for name in artifact.manifest.files if name.startswith(f"{ORIGIN}/")]
    files |= {name.removeprefix(f"{ORIGIN}/"): root / name for name in kept}
    if "config.json" not in files:
        raise ExportRefused(
            "the artifact has no transformers configuration",
            where=str(root),
            hint="only models from a transformers directory or a GGUF file become checkpoints; an artifact of an "
            "older optcc must be compiled again",
        )
    backend = load_backend(str(artifact.manifest.target["backend"]))
    return backend.unpack(root), Origin(artifact.manifest.model.name, files)
