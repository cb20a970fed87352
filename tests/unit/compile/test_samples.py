"""What functions are compared on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optcc.compile.samples import function_inputs
from optcc.frontend import ModelSource
from optcc.recipe import CheckOptions

FACTORY = """
import torch
from torch import nn
class Masked(nn.Module):
    def forward(self, ids, mask, x):
        return (ids * mask).float() + x
def make():
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    return Masked(), {"ids": torch.tensor([[5, 9, 7], [8, 0, 0]]), "mask": mask, "x": torch.randn(2, 3)}
"""


class Words:
    """A tokenizer of one token a word, with a frame of two."""

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        """Words to numbers."""
        found = [sum(word.encode()) % 90 + 10 for word in text.split()]
        return [1, *found, 2] if add_special else found


def test_variations_leave_masks_alone(tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text(FACTORY)
    source = ModelSource("made", "factory", "", (), factory=f"{tmp_path / 'made.py'}:make")
    batches = function_inputs(
        source, {"inputs": {"ids": {}, "mask": {}, "x": {}}}, None, CheckOptions(), None
    ).batches
    assert len(batches) == 8
    first = batches[0]
    for other in batches[1:]:
        np.testing.assert_array_equal(other["mask"], first["mask"])
        assert (other["ids"] != first["ids"]).any()
        assert (other["x"] != first["x"]).any()


@pytest.mark.parametrize("tokens", [400, 1600])
def test_sentences_hold_the_tokens_that_were_asked_for(tokens: int) -> None:
    io = {"inputs": {"input_ids": {}, "attention_mask": {}}, "limits": {"S": 64}}
    source = ModelSource("words", "directory", "", ())
    words: Any = Words()
    options = CheckOptions(data=("prose", "chat"), tokens=tokens, window=200)
    batches = function_inputs(source, io, words, options, None).batches
    lengths = np.concatenate([batch["attention_mask"].sum(1) for batch in batches])
    assert lengths.sum() == tokens + 2 * len(lengths)
    assert 3 <= lengths.min() <= lengths.max() <= 64
    for batch in batches:
        assert batch["input_ids"].shape[1] == batch["attention_mask"].sum(1).max()
        assert (batch["input_ids"][:, 0] == 1).all()
    mixed, rest = batches[0]["attention_mask"].sum(1), lengths[8:]
    assert (np.diff(rest) >= 0).all() or len(rest) == 0
    assert mixed.max() > mixed.min()
