"""The built-in chat text: our prompts, answered once by the original model, kept on disk by digest."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from optcc.cache import default_cache

Message = dict[str, str]

# An answer is cut here: enough for the built-in windows, cheap to generate.
ANSWER_TOKENS = 40


@dataclass(frozen=True)
class ChatSource:
    """How to get answers from the original model and how to write a conversation down.

    Attributes:
        model_digest: names the original model; answers are kept under it.
        answer: prompts (plain text) to answers, greedy, at most ANSWER_TOKENS tokens each, same order.
            Called once per model and set of prompts.
        render: messages of {"role", "content"} to text, by the model's chat template.
        cache: folder for answers; None for `default_cache()`.
    """

    model_digest: str
    answer: Callable[[Sequence[str]], list[str]]
    render: Callable[[Sequence[Message]], str]
    cache: Path | None = None


def plain_render(messages: Sequence[Message]) -> str:
    """A conversation as plain text, for models without a chat template."""
    return "\n\n".join(f"{m['role'].capitalize()}: {m['content']}" for m in messages) + "\n"


def chat_documents(source: ChatSource, prompts: Sequence[str]) -> list[str]:
    """One rendered conversation per prompt, answered by the original model or taken from the cache."""
    path = _path(source, prompts)
    answers = _read(path, prompts)
    if answers is None:
        answers = source.answer(prompts)
        if len(answers) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts, {len(answers)} answers")
        # The cache saves time and changes no result, so a folder that can't be written is no error.
        with contextlib.suppress(OSError):
            _write(path, prompts, answers)
    return [
        source.render([{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}])
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def _path(source: ChatSource, prompts: Sequence[str]) -> Path:
    asked = json.dumps([ANSWER_TOKENS, list(prompts)]).encode()
    model = re.sub(r"[^A-Za-z0-9._]", "_", source.model_digest)[:80]
    name = f"{model}-{hashlib.sha256(asked).hexdigest()[:24]}.json"
    return (source.cache or default_cache()) / "chat" / name


def _checksum(prompts: Sequence[str], answers: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([list(prompts), list(answers)]).encode()).hexdigest()


def _read(path: Path, prompts: Sequence[str]) -> list[str] | None:
    """The kept answers, or None if there are none or the file is not what was written."""
    try:
        kept = json.loads(path.read_text("utf-8"))
        answers = [str(a) for a in kept["answers"]]
        intact = kept["checksum"] == _checksum(prompts, answers) and len(answers) == len(prompts)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return answers if intact else None


def _write(path: Path, prompts: Sequence[str], answers: Sequence[str]) -> None:
    """Write the file whole or not at all, also with several writers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "version": 1,
        "prompts": list(prompts),
        "answers": answers,
        "checksum": _checksum(prompts, answers),
    }
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
