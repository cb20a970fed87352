"""The data that passes learn from: the recipe's texts, or inputs like those of the check, never the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optcc.accuracy.data import TextSet
from optcc.accuracy.overlap import marks
from optcc.artifact.digest import sha256_file
from optcc.compile.arrays import arrays_digest
from optcc.compile.original import Original
from optcc.compile.samples import Inputs, function_inputs, random_windows
from optcc.compile.spec import manifest_spec
from optcc.compile.texts import decoder_texts, model_tools
from optcc.errors import BadCheckData
from optcc.frontend import LoadOptions, ModelSource
from optcc.ir.module import Module
from optcc.pm.context import Calibration
from optcc.recipe import CalibrateOptions, Recipe


def calibration(
    source: ModelSource, load: LoadOptions, module: Module, options: CalibrateOptions, base: Path | None
) -> Calibration:
    """Inputs for a canonical module.

    Args:
        source: the model.
        load: how it was loaded.
        module: canonical.
        options: which texts, and how many tokens of them.
        base: directory that data files are relative to.

    Raises:
        BadCheckData: a text is missing or too short.
    """
    tools = model_tools(source)
    if module.attrs.get("kind") == "decoder":
        decoder: Any = module.attrs["decoder"]
        window = min(options.window, int(decoder["max_context"]))
        if tools is None:
            sets = [random_windows(int(decoder["vocab"]), options.tokens, window, seed=1000)]
        else:
            sets = decoder_texts(
                tools,
                options,
                window,
                "calibration",
                source.digest,
                lambda: Original(source, load),
                base,
            )
        return _of_texts(sets)
    tokenizer = tools.tokenizer if tools else None
    inputs = function_inputs(source, manifest_spec(module), tokenizer, options, base, split="calibration")
    return _of_functions(inputs)


def require_disjoint(recipe: Recipe) -> None:
    """Raise BadCheckData if the same arrays are for learning and for checking. Texts are split by document."""

    def arrays(names: Sequence[str]) -> dict[str, str]:
        paths = [recipe.base / name for name in names if name.endswith(".npz")]
        return {sha256_file(path): str(path) for path in paths if path.is_file()}

    learned, checked = arrays(recipe.calibrate.data), arrays(recipe.check.data)
    for digest in learned.keys() & checked.keys():
        raise BadCheckData(
            "the arrays of calibrate.data and check.data are the same",
            where=checked[digest],
            hint="what a pass learned from proves nothing about the artifact; split the data",
        )


def learned_marks(data: Calibration) -> list[str]:
    """What is kept of the tokens that passes learn from, so that the check can prove that it has others."""
    return marks(b["input_ids"].reshape(-1).numpy() for b in data.batches if _is_window(b))


def _is_window(batch: Mapping[str, Tensor]) -> bool:
    """A decoder's; functions have batches of other shapes."""
    return "input_ids" in batch and batch["input_ids"].dim() == 1


def _of_texts(sets: Sequence[TextSet]) -> Calibration:
    batches = tuple(window_batch(torch.from_numpy(w)) for s in sets for w in s.windows)
    digest = hashlib.sha256(" ".join(s.digest for s in sets).encode()).hexdigest()
    return Calibration(batches, digest, sum(s.tokens for s in sets))


def window_batch(ids: Tensor) -> dict[str, Tensor]:
    """The inputs of a canonical decoder for one request of these tokens; logits of every row are wanted."""
    rows = len(ids)
    return {
        "input_ids": ids.to(torch.int64),
        "position_ids": torch.arange(rows),
        "query_starts": torch.tensor([0, rows], dtype=torch.int32),
        "logit_rows": torch.arange(rows),
    }


def _of_functions(inputs: Inputs) -> Calibration:
    batches = [{n: torch.from_numpy(np.ascontiguousarray(v)) for n, v in b.items()} for b in inputs.batches]
    tokens = sum(int(b["attention_mask"].sum()) for b in batches if "attention_mask" in b)
    return Calibration(tuple(batches), arrays_digest(inputs.batches), tokens, inputs.note)
