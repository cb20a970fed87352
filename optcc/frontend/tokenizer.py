"""The tokenizer files an artifact carries: `tokenizer.json`, `chat_template.jinja`, `special.json`.

`special.json` is ours: `add_bos` bool, `bos_token_id` int or null, `eos_token_ids` list of int,
and `special_tokens`, the tokens by role (`bos_token`, `eos_token`, …), which chat templates refer to by name.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from optcc.errors import CorruptWeights
from optcc.frontend.program import ModelSource

_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
# Tokens that end a turn in the chat formats in use; a model that was saved without saying so still stops at
# them.
_END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|end_of_text|>")


@dataclass(frozen=True)
class SpecialTokens:
    """What begins and ends a text.

    Attributes:
        eos_token_ids: every id that ends an answer, ascending.
        add_bos: whether the tokenizer puts `bos_token_id` before a text.
        by_role: `bos_token`, `eos_token`, … as text.
    """

    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    add_bos: bool
    by_role: Mapping[str, str]


def special_tokens(directory: Path) -> SpecialTokens:
    """Special tokens of a model directory, from all four files that may name them. Empty where none does.

    Raises CorruptWeights if one of the files is not JSON.
    """
    config, generation = _json(directory / "config.json"), _json(directory / "generation_config.json")
    settings, vocabulary = _json(directory / "tokenizer_config.json"), _added(directory)
    by_role = {role: text for role in _ROLES if (text := _text(settings.get(role))) is not None}
    ends = set(end_tokens(directory))
    if by_role.get("eos_token") in vocabulary:
        ends.add(vocabulary[by_role["eos_token"]])
    if _template(directory, settings) is not None:
        ends |= {vocabulary[text] for text in _END_OF_TURN if text in vocabulary}
    begin = next(iter(_ids(generation.get("bos_token_id", config.get("bos_token_id")))), None)
    if by_role.get("bos_token") in vocabulary:
        begin = vocabulary[by_role["bos_token"]]
    add_bos = settings.get("add_bos_token")
    if add_bos is None:
        add_bos = begin is not None and _post_processor_adds(directory, by_role.get("bos_token"))
    return SpecialTokens(tuple(sorted(ends)), begin, bool(add_bos), by_role)


def end_tokens(directory: Path) -> frozenset[int]:
    """The ids that a model's configurations say end an answer."""
    places = (_json(directory / name) for name in ("generation_config.json", "config.json"))
    return frozenset(token for place in places for token in _ids(place.get("eos_token_id")))


def export_tokenizer(source: ModelSource, out_dir: Path) -> tuple[Path, ...]:
    """Write the tokenizer of a model into `out_dir`, which is created. Returns the files, none if the model
    has none.

    A model that brings only the files of a slow tokenizer is converted by transformers once, here.
    """
    directory = source.directory
    if directory is None:
        return ()
    settings = _json(directory / "tokenizer_config.json")
    fast = directory / "tokenizer.json"
    if not fast.is_file() and not _has_slow(directory):
        return ()
    out_dir.mkdir(parents=True, exist_ok=True)
    target = out_dir / "tokenizer.json"
    if fast.is_file():
        shutil.copyfile(fast, target)
    else:
        import transformers

        backend = transformers.AutoTokenizer.from_pretrained(
            directory, local_files_only=True
        ).backend_tokenizer
        # Not `save`, which hides the error of a full disk behind a plain Exception.
        target.write_text(backend.to_str(pretty=True), "utf-8")
    written = [target]
    template = _template(directory, settings)
    if template is not None:
        written.append(out_dir / "chat_template.jinja")
        written[-1].write_text(template, "utf-8")
    special = special_tokens(directory)
    content = {
        "add_bos": special.add_bos,
        "bos_token_id": special.bos_token_id,
        "eos_token_ids": list(special.eos_token_ids),
        "special_tokens": dict(special.by_role),
    }
    written.append(out_dir / "special.json")
    written[-1].write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")
    return tuple(written)


def _has_slow(directory: Path) -> bool:
    return any(
        (directory / name).is_file()
        for name in ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
    )


def _template(directory: Path, settings: Mapping[str, object]) -> str | None:
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text("utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several named templates; the one called "default" is the chat
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, Mapping)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _added(directory: Path) -> dict[str, int]:
    """Added tokens (all special ones are) by text."""
    entries = _json(directory / "tokenizer.json").get("added_tokens")
    return {str(e["content"]): int(e["id"]) for e in entries} if isinstance(entries, list) else {}


def _post_processor_adds(directory: Path, bos: str | None) -> bool:
    processor = _json(directory / "tokenizer.json").get("post_processor")
    return bos is not None and json.dumps(bos) in json.dumps(processor)


def _text(value: object) -> str | None:
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _ids(value: object) -> Iterator[int]:
    yield from (
        int(entry)
        for entry in (value if isinstance(value, list | tuple) else [value])
        if isinstance(entry, int)
    )


def _json(path: Path) -> dict[str, object]:
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise CorruptWeights(f"{path.name} is not valid JSON ({error})", where=str(path)) from error
    return data if isinstance(data, dict) else {}


def has_tokenizer(directory: Path) -> bool:
    """Whether `export_tokenizer` would find one."""
    return (directory / "tokenizer.json").is_file() or _has_slow(directory)


def has_chat_template(directory: Path) -> bool:
    """Whether the tokenizer comes with a chat template. Raises CorruptWeights if its settings are not JSON."""
    return _template(directory, _json(directory / "tokenizer_config.json")) is not None
