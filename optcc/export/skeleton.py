"""The model's own modules and weight names, from its configuration: what a checkpoint must have."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from optcc.frontend import LoadOptions
from optcc.frontend.model import build, load_config, model_kind


@dataclass(frozen=True)
class Skeleton:
    """Names, without any weight.

    Attributes:
        parameters: every weight of the checkpoint, tied ones once.
        buffers: computed tensors.
        linears: layers that are plain linears.
        vocabulary: weights of the embedding and the head.
        encoder: whether it is one; then a pooler may be missing.
        changes: what `config.json` must say otherwise than the original's.
    """

    parameters: tuple[str, ...]
    buffers: frozenset[str]
    linears: tuple[str, ...]
    vocabulary: frozenset[str]
    encoder: bool
    changes: Mapping[str, Any] = field(default_factory=dict)

    def optional(self, name: str) -> bool:
        """Whether a checkpoint may leave the weight out, as sentence encoders do with the pooler."""
        return self.encoder and "pooler." in name


def skeleton(config: Mapping[str, Any], held: set[str]) -> Skeleton:
    """The skeleton of a model.

    Args:
        config: its `config.json`.
        held: names of the weights that the compiled module holds: a head that was untied since counts as its own.

    Raises:
        UnsupportedArchitecture, CorruptWeights: the configuration can't be built.
    """
    found: Any = _built(config)
    head = found.get_output_embeddings() if hasattr(found, "get_output_embeddings") else None
    names = {id(module): name for name, module in found.named_modules()}
    head_name = f"{names[id(head)]}.weight" if head is not None else ""
    embedding = f"{names[id(found.get_input_embeddings())]}.weight"
    parameters = dict(found.named_parameters())
    changes: dict[str, Any] = {}
    if head_name and head_name not in parameters and {head_name, embedding} <= held:
        changes["tie_word_embeddings"] = False
        parameters[head_name] = parameters[embedding]
    return Skeleton(
        tuple(sorted(parameters)),
        frozenset(name for name, _ in found.named_buffers()),
        tuple(name for name, module in found.named_modules() if isinstance(module, nn.Linear)),
        frozenset({head_name, embedding}),
        head is None,
        changes,
    )


def _built(config: Mapping[str, Any]) -> nn.Module:
    """The model with its parameters on the meta device."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        settings = load_config(Path(folder), LoadOptions())
    return build(settings, model_kind(settings), "eager", torch.float32, LoadOptions())
