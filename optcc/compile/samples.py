"""Inputs to compare on where the recipe's texts can't serve: models without a tokenizer, encoders, any function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from optcc.accuracy.data import Split, TextSet, load_text_sets
from optcc.artifact.digest import sha256_bytes
from optcc.compile.arrays import read_arrays
from optcc.compile.texts import TextOptions
from optcc.frontend import ModelSource, known_inputs
from optcc.runtime.tokenizer import Tokenizer

Array = npt.NDArray[Any]
_BATCH = 8
_EXAMPLES = 8


# Added to a generator's seed, so that what a pass learns from is never what the artifact is checked on.
_SEEDS = {"check": 0, "calibration": 1000}


def random_windows(vocab: int, tokens: int, window: int, seed: int = 0) -> TextSet:
    """Windows of uniformly random tokens from a fixed seed."""
    generator = np.random.Generator(np.random.Philox(seed))
    count = max(1, tokens // window)
    windows = tuple(generator.integers(0, vocab, window, dtype=np.int64) for _ in range(count))
    return TextSet("random", windows, sha256_bytes(b"".join(w.tobytes() for w in windows)))


@dataclass(frozen=True)
class Inputs:
    """Arguments for a function.

    Attributes:
        batches: one call each, by argument name.
        note: for people, when the inputs are not real ones.
    """

    batches: tuple[dict[str, Array], ...]
    note: str | None = None


def function_inputs(
    source: ModelSource,
    io: Mapping[str, Any],
    tokenizer: Tokenizer | None,
    options: TextOptions,
    base: Path | None,
    split: Split = "check",
) -> Inputs:
    """Batches of arguments for a function; those of the two splits have nothing in common.

    In this order: arrays that the recipe's `data` names (`.npz`); sentences of many lengths from the recipe's texts for
    a text encoder with a tokenizer; the data that the model's factory returns; seeded variations of the example inputs,
    to which the check adds the example itself: floating-point values redrawn with the example's mean and deviation,
    integers redrawn from the example's range; booleans, and integers that are all 0 or 1, are masks and stay.
    """
    files = [name for name in options.data if name.endswith(".npz")]
    if files:
        return Inputs(tuple(b for name in files for b in read_arrays((base or Path.cwd()) / name, io)))
    if set(io["inputs"]) == {"input_ids", "attention_mask"} and tokenizer is not None:
        limit = int(io.get("limits", {}).get("S", 128))
        return Inputs(tuple(_sentences(tokenizer, options, min(limit, 128), base, split)))
    known = known_inputs(source)
    if known is None:
        note = "the model has no tokenizer: random ids stand for text"
        return Inputs(tuple(_random_ids(io, _SEEDS[split])), note)
    if known.data.get(split):
        return Inputs(tuple(_numpy(batch) for batch in known.data[split]))
    note = f"no {split} data came with the model: seeded variations of its example inputs stand for it"
    return Inputs(tuple(_variations(_numpy(known.example), split)), note)


def _numpy(batch: Mapping[str, Tensor]) -> dict[str, Array]:
    return {name: value.detach().cpu().numpy() for name, value in batch.items()}


def _sentences(
    tokenizer: Tokenizer, options: TextOptions, longest: int, base: Path | None, split: Split
) -> list[dict[str, Array]]:
    """The recipe's tokens of text cut into pieces of 4 to `longest` tokens, padded in batches of 8.

    Behind the first batch, pieces of similar lengths share one, so that little of what is computed is padding.
    """
    names = [name for name in options.data if name != "chat"] or ["prose"]
    sets = load_text_sets(
        names,
        lambda text: tokenizer.encode(text, add_special=False),
        tokens=options.tokens,
        window=options.window,
        split=split,
        base=base,
    )
    stream = np.concatenate([w for s in sets for w in s.windows])
    generator = np.random.Generator(np.random.Philox(1))
    prefix, suffix = _frame(tokenizer)
    most = max(1, longest - len(prefix) - len(suffix))
    rows: list[list[int]] = []
    at = 0
    while at < len(stream):
        size = int(generator.integers(min(4, most), most + 1))
        rows.append([*prefix, *stream[at : at + size].tolist(), *suffix])
        at += size
    rows[_BATCH:] = sorted(rows[_BATCH:], key=len)
    batches = []
    for first in range(0, len(rows), _BATCH):
        group = rows[first : first + _BATCH]
        width = max(map(len, group))
        ids = np.zeros((len(group), width), np.int64)
        mask = np.zeros((len(group), width), np.int64)
        for i, row in enumerate(group):
            ids[i, : len(row)], mask[i, : len(row)] = row, 1
        batches.append({"input_ids": ids, "attention_mask": mask})
    return batches


def _frame(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text, such as [CLS] and [SEP]."""
    plain, framed = tokenizer.encode("a", add_special=False), tokenizer.encode("a", add_special=True)
    for start in range(len(framed) - len(plain) + 1):
        if framed[start : start + len(plain)] == plain:
            return framed[:start], framed[start + len(plain) :]
    return [], []


def _random_ids(io: Mapping[str, Any], seed: int) -> list[dict[str, Array]]:
    """Random ids and masks for an encoder without a tokenizer."""
    generator = np.random.Generator(np.random.Philox(seed + 2))
    batches = []
    for width in (3, 5, 8, 12, 16, 24, 31, 32):
        ids = generator.integers(0, int(io["vocab"]), (4, width), dtype=np.int64)
        mask = np.ones((4, width), np.int64)
        mask[1:, width // 2 + 1 :] = generator.integers(0, 2, (3, width - width // 2 - 1)).cumprod(axis=1)
        batches.append({"input_ids": ids, "attention_mask": mask})
    return batches


def _variations(example: dict[str, Array], split: Split) -> list[dict[str, Array]]:
    generator = np.random.Generator(np.random.Philox(_SEEDS[split] + 3))
    batches = [example] if split == "check" else []
    while len(batches) < _EXAMPLES:
        batches.append({name: _vary(value, generator) for name, value in example.items()})
    return batches


def _vary(value: Array, generator: np.random.Generator) -> Array:
    if np.issubdtype(value.dtype, np.floating):
        drawn = generator.standard_normal(value.shape) * (value.std() or 1.0) + value.mean()
        typed: Array = drawn.astype(value.dtype)
        return typed
    if np.issubdtype(value.dtype, np.integer) and not np.isin(value, (0, 1)).all():
        redrawn: Array = generator.integers(value.min(), value.max() + 1, value.shape, dtype=value.dtype)
        return redrawn
    return value
