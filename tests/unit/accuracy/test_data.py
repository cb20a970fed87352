"""Text sets: digests, splits, sizes, user files, errors."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from optcc.accuracy import documents
from optcc.accuracy.chat import ChatSource, plain_render
from optcc.accuracy.data import load_text_set, load_text_sets, share_tokens, split_documents
from optcc.accuracy.prompts import PROMPTS
from optcc.errors import BadCheckData


def encode(text: str) -> list[int]:
    """A token per word, stable from run to run."""
    return [zlib.crc32(word.encode()) % 50_000 for word in text.split()]


def chat(folder: Path) -> ChatSource:
    return ChatSource("m", lambda prompts: [p + " Indeed. " * 60 for p in prompts], plain_render, folder)


@pytest.mark.parametrize("name", ["prose", "code", "chat"])
def test_built_in_texts_fill_the_default_size(name: str, tmp_path: Path) -> None:
    for split in ("check", "calibration"):
        got = load_text_set(name, encode, tokens=1536, window=512, split=split, chat=chat(tmp_path))
        assert [len(w) for w in got.windows] == [512] * 3
        assert got.tokens == 1536
        assert all(w.dtype == np.int64 for w in got.windows)


def test_digest_is_stable_and_tells_texts_apart() -> None:
    first = load_text_set("prose", encode, tokens=1024, window=256)
    assert first.digest == load_text_set("prose", encode, tokens=1024, window=256).digest
    others = [
        load_text_set("code", encode, tokens=1024, window=256),
        load_text_set("prose", encode, tokens=1024, window=256, split="calibration"),
        load_text_set("prose", encode, tokens=1024, window=512),
        load_text_set("prose", encode, tokens=1000, window=256),
        load_text_set("prose", encode, tokens=1024, window=256, bos=1),
    ]
    assert len({first.digest, *(o.digest for o in others)}) == 6


def test_digest_of_a_known_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one two three four")
    got = load_text_set("a.txt", lambda text: list(text.encode()), tokens=6, window=3, base=tmp_path)
    assert [w.tolist() for w in got.windows] == [[111, 110, 101], [32, 116, 119]]
    assert got.digest == hashlib.sha256(struct.pack("<8q", 3, 111, 110, 101, 3, 32, 116, 119)).hexdigest()
    assert got.digest == "59bc0d15d1f2dad67622cd3bf0190901c991c8f5079567add5f65be17923412a"


@pytest.mark.parametrize("source", [documents.prose_documents, documents.code_documents, lambda: PROMPTS])
def test_halves_are_disjoint_complete_and_even(source) -> None:  # type: ignore[no-untyped-def]
    everything = [d for d in source() if d.strip()]
    check, calibration = (split_documents(everything, s) for s in ("check", "calibration"))
    assert not set(check) & set(calibration)
    assert set(check) | set(calibration) == set(everything)
    assert 0 <= len(check) - len(calibration) <= 1
    assert split_documents(list(reversed(everything)), "check") == check


def test_a_document_given_twice_is_in_one_half_only() -> None:
    texts = ["a", "b", "a", "c", "b", " ", ""]
    halves = [split_documents(texts, s) for s in ("check", "calibration")]
    assert sorted(halves[0] + halves[1]) == ["a", "b", "c"]


def test_calibration_tokens_come_from_other_documents_than_check_tokens(tmp_path: Path) -> None:
    lines = [json.dumps({"text": " ".join(str(100 * d + w) for w in range(40))}) for d in range(20)]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    seen = [
        {
            token // 100
            for window in load_text_set(
                "d.jsonl",
                lambda text: [int(w) for w in text.split()],
                tokens=400,
                window=50,
                split=split,
                base=tmp_path,
            ).windows
            for token in window.tolist()
        }
        for split in ("check", "calibration")
    ]
    assert len(seen[0]) == len(seen[1]) == 10
    assert not seen[0] & seen[1]


def test_a_long_document_does_not_crowd_out_the_others(tmp_path: Path) -> None:
    texts = ["long " * 9 + "\n" for _ in range(5000)]
    rows = [{"text": "".join(texts)}, *({"text": f"short{i} " * 50} for i in range(40))]
    (tmp_path / "d.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    words: list[str] = []

    def record(text: str) -> list[int]:
        words.extend(text.split())
        return encode(text)

    load_text_set("d.jsonl", record, tokens=512, window=64, base=tmp_path)
    assert len(set(words)) >= 8


def test_windows_start_with_the_bos_token() -> None:
    got = load_text_set("prose", encode, tokens=300, window=128, bos=50_001)
    assert [len(w) for w in got.windows] == [128, 128, 44]
    assert all(w[0] == 50_001 and (w[1:] < 50_000).all() for w in got.windows)


@pytest.mark.parametrize(
    ("tokens", "texts", "shares"),
    [
        (8192, 3, [3072, 2560, 2560]),
        (1536, 3, [512, 512, 512]),
        (1636, 3, [612, 512, 512]),
        (2148, 3, [1024, 612, 512]),
        (600, 3, [200, 200, 200]),
        (8192, 1, [8192]),
    ],
)
def test_tokens_are_shared_evenly_in_whole_windows(tokens: int, texts: int, shares: list[int]) -> None:
    assert share_tokens(tokens, 512, texts) == shares
    assert sum(shares) == tokens


def test_all_texts_together(tmp_path: Path) -> None:
    sets = load_text_sets(["prose", "code", "chat"], encode, tokens=2048, window=256, chat=chat(tmp_path))
    assert [s.name for s in sets] == ["prose", "code", "chat"]
    assert sum(s.tokens for s in sets) == 2048


def test_plain_text_is_cut_at_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("\n\n".join(f"paragraph {i} " + "word " * 100 for i in range(40)))
    found = documents.file_documents(path)
    assert 5 < len(found) < 40
    assert all(len(d) >= 2000 for d in found[:-1])
    assert all(d.startswith("paragraph") for d in found)


def test_messages_are_rendered(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "hello"}]}) + "\n\n")
    assert documents.file_documents(path, render=plain_render) == ["User: hello\n"]
    with pytest.raises(BadCheckData, match="chat template"):
        documents.file_documents(path)


def test_only_the_start_of_a_huge_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_FILE_BYTES", 50)
    path = tmp_path / "big.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"line {i}"}) for i in range(1000)))
    assert documents.file_documents(path) == ["line 0", "line 1"]
    path = tmp_path / "big.txt"
    path.write_text("ä" * 1000)
    assert documents.file_documents(path) == ["ä" * 25]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\nnot json', r"bad.jsonl:2.*JSON"),
        ("[1, 2]", "not an object"),
        ('{"txt": "a"}', "neither"),
        ('{"messages": [{"role": "user"}]}', "neither"),
    ],
)
def test_bad_lines_name_file_and_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "bad.jsonl").write_text(content)
    with pytest.raises(BadCheckData) as caught:
        load_text_set("bad.jsonl", encode, tokens=64, window=32, base=tmp_path)
    assert caught.value.code == "E802"
    assert re.search(message, str(caught.value))


def test_missing_file_names_the_nearest_built_in() -> None:
    with pytest.raises(BadCheckData) as caught:
        load_text_set("pose", encode, tokens=64, window=32)
    assert "prose" in (caught.value.hint or "")


def test_not_text(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00bad")
    with pytest.raises(BadCheckData, match="UTF-8"):
        load_text_set("x.txt", encode, tokens=64, window=32, base=tmp_path)


def test_too_short_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("only five words in here")
    with pytest.raises(BadCheckData, match="has 5 tokens, 64 are needed"):
        load_text_set("short.txt", encode, tokens=64, window=32, base=tmp_path)
    with pytest.raises(BadCheckData, match=r"calibration half of 'short\.txt' has 0 tokens"):
        load_text_set("short.txt", encode, tokens=64, window=32, split="calibration", base=tmp_path)


def test_chat_needs_a_model_and_there_must_be_something_to_compare() -> None:
    with pytest.raises(BadCheckData, match="answers prompts"):
        load_text_set("chat", encode, tokens=64, window=32)
    with pytest.raises(BadCheckData, match="nothing to compare"):
        load_text_set("prose", encode, tokens=1, window=32)
    with pytest.raises(BadCheckData, match="names no text"):
        load_text_sets([], encode, tokens=64, window=32)
