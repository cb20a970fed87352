"""The chat cache: asked once, robust to damage, keyed by model and prompts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from optcc.accuracy.chat import ChatSource, chat_documents, plain_render
from optcc.accuracy.prompts import PROMPTS
from optcc.cache import default_cache


class Model:
    """Answers and counts how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def answer(self, prompts: Sequence[str]) -> list[str]:
        self.calls += 1
        return [f"Answer {len(p)}." for p in prompts]

    def source(self, cache: Path | None, digest: str = "sha256:abc/1") -> ChatSource:
        return ChatSource(digest, self.answer, plain_render, cache)


def test_prompts_are_many_and_distinct() -> None:
    assert len(PROMPTS) >= 24
    assert len(set(PROMPTS)) == len(PROMPTS)


def test_second_call_takes_the_kept_answers(tmp_path: Path) -> None:
    model = Model()
    first = chat_documents(model.source(tmp_path), PROMPTS[:3])
    assert chat_documents(model.source(tmp_path), PROMPTS[:3]) == first
    assert model.calls == 1
    assert first[0] == f"User: {PROMPTS[0]}\n\nAssistant: Answer {len(PROMPTS[0])}.\n"
    (file,) = (tmp_path / "chat").iterdir()  # nothing temporary is left
    assert file.name.startswith("sha256_abc_1-")


def test_other_model_or_prompts_are_asked_again(tmp_path: Path) -> None:
    model = Model()
    chat_documents(model.source(tmp_path), PROMPTS[:3])
    chat_documents(model.source(tmp_path, "other"), PROMPTS[:3])
    chat_documents(model.source(tmp_path), PROMPTS[:4])
    assert model.calls == 3


@pytest.mark.parametrize("damage", ["cut", "empty", "binary", "list", "changed", "folder"])
def test_a_damaged_file_is_replaced(tmp_path: Path, damage: str) -> None:
    model = Model()
    good = chat_documents(model.source(tmp_path), PROMPTS[:3])
    (file,) = (tmp_path / "chat").iterdir()
    text = file.read_text()
    if damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(
            {
                "cut": text[: len(text) // 2].encode(),
                "empty": b"",
                "binary": b"\xff\x00\xfe",
                "list": b"[]",
                "changed": text.replace("Answer", "Anwser", 1).encode(),
            }[damage]
        )
    assert chat_documents(model.source(tmp_path), PROMPTS[:3]) == good
    assert model.calls == 2
    if damage != "folder":
        assert json.loads(file.read_text())["version"] == 1
        chat_documents(model.source(tmp_path), PROMPTS[:3])
        assert model.calls == 2


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "chat").write_text("a file where the folder should be")
    assert len(chat_documents(Model().source(tmp_path), PROMPTS[:3])) == 3


def test_a_missing_answer_is_refused(tmp_path: Path) -> None:
    source = ChatSource("m", lambda prompts: ["one"], plain_render, tmp_path)
    with pytest.raises(ValueError, match="3 prompts, 1 answers"):
        chat_documents(source, PROMPTS[:3])


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTCC_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    model = Model()
    chat_documents(model.source(None), PROMPTS[:2])
    assert (tmp_path / "chat").is_dir()
    monkeypatch.delenv("OPTCC_CACHE")
    assert default_cache() == Path.home() / ".cache" / "optcc"
