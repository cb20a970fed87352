"""What passes are proven on: a few windows of the recipe's check texts, or examples of a function's inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optcc.accuracy.intervals import Units, make_units
from optcc.compile.calibrate import window_batch
from optcc.compile.original import Original
from optcc.compile.samples import function_inputs, random_windows
from optcc.compile.spec import manifest_spec
from optcc.compile.texts import decoder_texts, model_tools
from optcc.frontend import LoadOptions, ModelSource
from optcc.ir.module import Module
from optcc.recipe import CheckOptions

WINDOW = 128
WINDOWS = 2


@dataclass(frozen=True)
class ProofData:
    """Inputs of a captured or canonical module.

    Attributes:
        batches: inputs by name, as `interpret` takes them; a decoder gets one window of text per batch.
        units: how the rows of a decoder's logits group, for intervals; None for a function.
        digest: SHA-256 of the inputs.
        tokens: in all batches; 0 for a function.
        note: for people, when the data is not real.
    """

    batches: tuple[Mapping[str, Tensor], ...]
    units: Units | None
    digest: str
    tokens: int
    note: str | None = None


def proof_data(
    source: ModelSource,
    load: LoadOptions,
    module: Module,
    options: CheckOptions,
    base: Path | None,
    *,
    windows: int = WINDOWS,
    window: int = WINDOW,
) -> ProofData:
    """A part of what the check compares on, at most `windows` windows of `window` tokens, or so many batches.

    Args:
        source: the model.
        load: how it was loaded.
        module: captured from it.
        options: the recipe's check.
        base: directory that data files are relative to.
        windows, window: how much.

    Raises:
        BadCheckData: a text is missing or too short.
    """
    tools = model_tools(source)
    if module.attrs.get("kind") == "decoder":
        decoder: Any = module.attrs["decoder"]
        window = min(window, options.window, int(decoder["max_context"]))
        note = None
        if tools is None:
            sets = [random_windows(int(decoder["vocab"]), windows * window, window)]
            note = "the model has no tokenizer: random tokens stand for text"
        else:
            # Conversations would have to be answered by the original first; other texts cost nothing.
            names = tuple(n for n in options.data if n != "chat")[:windows] or options.data
            part = replace(options, data=names, tokens=windows * window, window=window)
            sets = decoder_texts(
                tools, part, window, "check", source.digest, lambda: Original(source, load), base
            )
        found = [s.windows[:windows] for s in sets]
        batches = tuple(window_batch(torch.from_numpy(w)) for text in found for w in text)
        units = make_units([[len(w) for w in text] for text in found])
        digest = _digest(batches)
        return ProofData(batches, units, digest, sum(len(b["input_ids"]) for b in batches), note)
    tokenizer = tools.tokenizer if tools else None
    inputs = function_inputs(source, manifest_spec(module), tokenizer, options, base)
    batches = tuple(
        {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in batch.items()}
        for batch in inputs.batches[:windows]
    )
    return ProofData(batches, None, _digest(batches), 0, inputs.note)


def _digest(batches: tuple[Mapping[str, Tensor], ...]) -> str:
    hasher = hashlib.sha256()
    for batch in batches:
        for name, value in sorted(batch.items()):
            hasher.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode() + value.numpy().tobytes())
    return hasher.hexdigest()
