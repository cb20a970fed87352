"""Tokenizers made here, of the two families in use: bytes (GPT-2, Llama 3) and byte fallback (Llama 2)."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from optcc.errors import CorruptArtifact
from optcc.runtime import SpecialTokens, Tokenizer

TEXT = [
    "the capital of France is Paris",
    "日本語のテキスト",
    "naïve café — 🙂 👩‍👩‍👧 emoji",
    "  two  spaces\n\nlines",
] * 3


@pytest.fixture(scope="module")
def bytes_bpe() -> Tokenizer:
    """Byte-level BPE: a character can be cut anywhere."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXT, trainer)
    return Tokenizer(backend, SpecialTokens((1,), 0, True, "<s>", "</s>"))


@pytest.fixture(scope="module")
def fallback_bpe() -> Tokenizer:
    """As in Llama 2: U+2581 for a space, bytes as <0xNN>, the first space of a text stripped."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += ["\u2581", *"abcdefghiFP日本", "\u2581a", "\u2581F", "ab", "\u2581ab"]
    merges = [("\u2581", "a"), ("\u2581", "F"), ("a", "b"), ("\u2581", "ab")]
    vocab = {word: number for number, word in enumerate(words)}
    backend = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True))
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return Tokenizer(backend, SpecialTokens((2,), 1, True, "<s>", "</s>"))


def pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    stream = tokenizer.stream()
    return [*(stream.push(token) for token in ids), stream.flush()]


PROPERTY = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@PROPERTY
@given(ids=st.lists(st.integers(0, 399), max_size=24))
def test_any_tokens_of_bytes(bytes_bpe: Tokenizer, ids: list[int]) -> None:
    """Random tokens are mostly broken UTF-8: joined, the pieces are the full decode all the same."""
    assert "".join(pieces(bytes_bpe, ids)) == bytes_bpe.decode(ids)


@PROPERTY
@given(ids=st.lists(st.one_of(st.integers(0, 280), st.sampled_from([1, 2, 259, 275, 276])), max_size=24))
def test_any_tokens_with_byte_fallback(fallback_bpe: Tokenizer, ids: list[int]) -> None:
    assert "".join(pieces(fallback_bpe, ids)) == fallback_bpe.decode(ids)


@PROPERTY
@given(text=st.text(max_size=20))
def test_real_text_comes_without_half_characters(
    bytes_bpe: Tokenizer, fallback_bpe: Tokenizer, text: str
) -> None:
    for tokenizer in (bytes_bpe, fallback_bpe):
        ids = tokenizer.encode(text, add_special=False)
        parts = pieces(tokenizer, ids)
        assert "".join(parts) == tokenizer.decode(ids)
        if "\ufffd" not in text:
            assert not any("\ufffd" in part for part in parts)


def test_characters_come_when_they_are_whole(bytes_bpe: Tokenizer, fallback_bpe: Tokenizer) -> None:
    letters = _byte_letters()
    ids = [bytes_bpe._backend.token_to_id(letters[byte]) for byte in "a🙂b".encode()]
    assert pieces(bytes_bpe, ids) == ["a", "", "", "", "🙂", "b", ""]
    ids = [3 + byte for byte in "🙂".encode()] + [fallback_bpe._backend.token_to_id("a")]
    assert pieces(fallback_bpe, ids) == ["", "", "", "", "🙂a", ""], "a run of bytes is certain when it ends"


def _byte_letters() -> dict[int, str]:
    """The letters that byte-level BPE writes bytes with, by its published rule."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + place) for place, byte in enumerate(rest)}


def test_a_special_token_does_not_eat_the_next_space(fallback_bpe: Tokenizer) -> None:
    ids = fallback_bpe.encode("ab ab", add_special=False)
    ids = [ids[0], 2, 2, *ids[1:]]
    assert "".join(pieces(fallback_bpe, ids)) == fallback_bpe.decode(ids) == "ab ab"


def test_a_long_answer_takes_linear_time(bytes_bpe: Tokenizer) -> None:
    ids = bytes_bpe.encode(" ".join(TEXT) * 40)
    decoded: list[int] = []
    stream = bytes_bpe.stream()
    original = bytes_bpe.decode

    def counting(tokens: list[int]) -> str:
        decoded.append(len(tokens))
        return original(tokens)

    bytes_bpe.decode = counting  # type: ignore[method-assign,assignment]
    try:
        started = time.perf_counter()
        for token in ids:
            stream.push(token)
    finally:
        del bytes_bpe.decode
    assert len(ids) > 2000
    assert sum(decoded) < 8 * len(ids)
    assert time.perf_counter() - started < 5


def save(tokenizer: Tokenizer, directory: Path, special: object) -> Path:
    tokenizer._backend.save(str(directory / "tokenizer.json"))
    (directory / "special.json").write_text(json.dumps(special), encoding="utf-8")
    return directory


def test_load(bytes_bpe: Tokenizer, tmp_path: Path) -> None:
    special = {"eos_token_ids": [1, 7], "bos_token_id": 0, "add_bos": True, "more": "is fine"}
    loaded = Tokenizer.load(save(bytes_bpe, tmp_path, special))
    assert loaded.special == SpecialTokens((1, 7), 0, True, "<s>", "</s>")
    assert loaded.encode("Paris") == [0, *bytes_bpe.encode("Paris", add_special=False)]
    assert loaded.encode("<s>Paris</s>", add_special=False) == [
        0,
        *bytes_bpe.encode("Paris", add_special=False),
        1,
    ]
    assert loaded.decode(loaded.encode("café 🙂")) == "café 🙂"


def test_bos_is_not_doubled(bytes_bpe: Tokenizer, tmp_path: Path) -> None:
    """Some files add BOS by themselves; `add_bos` then has nothing left to do."""
    backend = tokenizers.Tokenizer.from_str(bytes_bpe._backend.to_str())
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    twice = Tokenizer(backend, bytes_bpe.special)
    assert twice.encode("Paris") == bytes_bpe.encode("Paris")
    assert twice.encode("Paris", add_special=False) == bytes_bpe.encode("Paris", add_special=False)


def test_padding_and_truncation_of_the_file_are_ignored(bytes_bpe: Tokenizer, tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer.from_str(bytes_bpe._backend.to_str())
    backend.enable_truncation(2)
    backend.enable_padding(length=50)
    special = {"eos_token_ids": [1], "bos_token_id": None}
    loaded = Tokenizer.load(save(Tokenizer(backend, bytes_bpe.special), tmp_path, special))
    assert loaded.encode("the capital") == bytes_bpe.encode("the capital", add_special=False)


@pytest.mark.parametrize("damage", ["{}", "not json", '{"eos_token_ids": 3}', None])
def test_damaged_files(bytes_bpe: Tokenizer, tmp_path: Path, damage: str | None) -> None:
    save(bytes_bpe, tmp_path, {"eos_token_ids": []})
    assert Tokenizer.load(tmp_path).special.eos_token == ""
    file = tmp_path / ("special.json" if damage else "tokenizer.json")
    file.write_text(damage or '{"version": "1.0"', encoding="utf-8")
    with pytest.raises(CorruptArtifact, match=file.name):
        Tokenizer.load(tmp_path)
    file.unlink()
    with pytest.raises(CorruptArtifact, match=file.name):
        Tokenizer.load(tmp_path)
