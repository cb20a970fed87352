"""The model that the runtime's tests share, and texts of it made the slow way."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from optcc.runtime import SpecialTokens, Tokenizer

from .numpy_model import TinyModel


@pytest.fixture(scope="session")
def model() -> TinyModel:
    return TinyModel()


@pytest.fixture(scope="session")
def oracle(model: TinyModel) -> Callable[[tuple[int, ...], int], tuple[int, ...]]:
    """Greedy tokens of a prompt, without cache, pages or batches."""
    return functools.cache(model.greedy)


@pytest.fixture(scope="session")
def small_tokenizer() -> Tokenizer:
    """A vocabulary as small as the model's: letters, a few words, bytes of one cut-up character."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    letters = [*"abcdefghijklmnopqrstuvwxyz", "Ġ", "ð", "Ł", "Ļ", "Ĥ"]
    words = [*letters, "ab", "Ġa", "th", "Ġth", "he", "in", "er", "Ġthe", "Ġin", "ðŁ", "ĻĤ"]
    pairs = ["a b", "Ġ a", "t h", "Ġ th", "h e", "i n", "e r", "Ġth e", "Ġ in", "ð Ł", "Ļ Ĥ"]
    backend = tokenizers.Tokenizer(
        models.BPE(
            {word: number for number, word in enumerate(words)}, [tuple(pair.split()) for pair in pairs]
        )
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend, SpecialTokens(()))
