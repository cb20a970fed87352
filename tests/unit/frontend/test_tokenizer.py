"""Tokenizer files of an artifact, from whatever files a model brings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from optcc.errors import CorruptWeights
from optcc.frontend import ModelSource, export_tokenizer, special_tokens


def _model(directory: Path, **files: object) -> ModelSource:
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (directory / (name + (".jinja" if name == "chat_template" else ".json"))).write_text(text)
    return ModelSource("tiny", "directory", "0" * 64, (), directory=directory)


def _tokenizer(directory: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    tokenizer.add_special_tokens(["<s>", "</s>", "<|im_end|>"])
    tokenizer.save(str(directory / "tokenizer.json"))


def test_a_model_without_tokenizer_has_none(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert export_tokenizer(_model(tmp_path, config={}), out) == ()
    assert not out.exists()


def test_every_end_of_sequence_is_collected(tmp_path: Path) -> None:
    source = _model(
        tmp_path,
        config={"eos_token_id": 7},
        generation_config={"eos_token_id": [9, 8]},
        tokenizer_config={"eos_token": {"content": "</s>"}, "bos_token": "<s>", "add_bos_token": True},
        chat_template="{{ messages }}",
    )
    _tokenizer(tmp_path)
    files = export_tokenizer(source, tmp_path / "out")
    assert [file.name for file in files] == ["tokenizer.json", "chat_template.jinja", "special.json"]
    special = json.loads(files[-1].read_text())
    assert special == {
        "add_bos": True,
        "bos_token_id": 2,
        "eos_token_ids": [3, 4, 7, 8, 9],
        "special_tokens": {"bos_token": "<s>", "eos_token": "</s>"},
    }
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"


def test_template_inside_the_settings(tmp_path: Path) -> None:
    templates = [{"name": "tools", "template": "T"}, {"name": "default", "template": "D"}]
    source = _model(tmp_path, tokenizer_config={"chat_template": templates})
    _tokenizer(tmp_path)
    export_tokenizer(source, tmp_path / "out")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "D"


def test_without_a_template_the_end_of_a_turn_is_an_ordinary_token(tmp_path: Path) -> None:
    _model(tmp_path, config={"eos_token_id": 3})
    _tokenizer(tmp_path)
    assert special_tokens(tmp_path).eos_token_ids == (3,)
    assert special_tokens(tmp_path).add_bos is False


def test_damaged_file(tmp_path: Path) -> None:
    _model(tmp_path, generation_config="{")
    with pytest.raises(CorruptWeights, match=r"generation_config.json"):
        special_tokens(tmp_path)
