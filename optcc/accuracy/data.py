"""Text to check on, as windows of token ids.

Documents are split into a check half and a calibration half by the rank of their SHA-256, so that no
document is in both. A window takes text from several documents: each document is cut at line ends into
passages about as long as a window; the first round takes one passage of every document (in order of digest),
the second round the next, and so on. Where in a document its first passage lies depends on its digest too, as
beginnings of files are all alike. Conversations stay whole. Passages are encoded on their own with a blank
line after them, joined, and cut into windows.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from optcc.accuracy.chat import ChatSource, Message, chat_documents
from optcc.accuracy.documents import code_documents, file_documents, prose_documents
from optcc.accuracy.metrics import IntArray
from optcc.accuracy.prompts import PROMPTS
from optcc.errors import BadCheckData

Split = Literal["check", "calibration"]
# text to token ids; adds no special tokens of its own, but reads those that a chat template writes.
Encode = Callable[[str], Sequence[int]]

_SEPARATOR = "\n\n"
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class TextSet:
    """Windows of one text.

    Attributes:
        name: built-in name, or the path as the user gave it.
        windows: i64[S] each; all of the asked width except perhaps the last, at least 2 tokens each.
        digest: SHA-256 over the windows' lengths and tokens.
    """

    name: str
    windows: tuple[IntArray, ...]
    digest: str

    @property
    def tokens(self) -> int:
        """Tokens in all windows."""
        return sum(len(w) for w in self.windows)


def share_tokens(tokens: int, window: int, texts: int) -> list[int]:
    """Divide tokens among texts: whole windows as evenly as they go, what remains to the first text that is
    behind.

    With fewer tokens than one window per text, each text gets an equal part. The sum is `tokens`, except
    that up to one token of remainder (too few for a window) is dropped per text.
    """
    if tokens < texts * window:
        return [tokens // texts] * texts
    whole, rest = divmod(tokens, window)
    shares = [(whole // texts + (i < whole % texts)) * window for i in range(texts)]
    if rest >= 2:
        shares[whole % texts] += rest
    return shares


def load_text_sets(
    names: Sequence[str],
    encode: Encode,
    *,
    tokens: int,
    window: int,
    split: Split = "check",
    chat: ChatSource | None = None,
    base: Path | None = None,
    bos: int | None = None,
) -> list[TextSet]:
    """All named texts, `tokens` in total; arguments and errors as in `load_text_set`."""
    if not names:
        raise BadCheckData("check.data names no text", hint="use prose, code, chat or a file")
    return [
        load_text_set(n, encode, tokens=share, window=window, split=split, chat=chat, base=base, bos=bos)
        for n, share in zip(names, share_tokens(tokens, window, len(names)), strict=True)
    ]


def load_text_set(
    name: str,
    encode: Encode,
    *,
    tokens: int,
    window: int,
    split: Split = "check",
    chat: ChatSource | None = None,
    base: Path | None = None,
    bos: int | None = None,
) -> TextSet:
    """Windows of one text.

    Args:
        name: prose, code, chat, or a file (plain text or JSON lines) relative to `base`.
        encode: text to token ids.
        tokens: how many in all windows together.
        window: tokens per window; the last window holds the remainder if that is at least 2 tokens.
        split: which half of the documents.
        chat: answers of the original model; needed for "chat" and for `messages` in files.
        base: folder that a relative path starts from; the current one if None.
        bos: token that every window starts with, counted as one of its tokens, for models that need it.

    Raises:
        BadCheckData: the text is missing, unreadable, or shorter than asked.
    """
    if tokens < 2 or window < 2:
        raise BadCheckData(
            f"{tokens} tokens in windows of {window} leave nothing to compare for {name!r}",
            hint="use check.tokens of at least 2 per text, and check.window of at least 2",
        )
    # Conversations are short, and without its question an answer would be odd text.
    characters = sys.maxsize if name == "chat" else window * _CHARACTERS_PER_TOKEN
    passages = _passages(_documents(name, split, chat, base), characters)
    windows = _fill(passages, encode, _sizes(tokens, window), bos)
    have, want = sum(map(len, windows)), sum(_sizes(tokens, window))
    # Of our own conversations there are as many as there are: a terse model leaves fewer tokens, which is no fault.
    if have < want and not (name == "chat" and have >= 2):
        raise BadCheckData(
            f"the {split} half of {name!r} has {have} tokens, {want} are needed",
            hint="lower check.tokens, or give more text in separate documents",
        )
    return TextSet(name, windows, _digest(windows))


def _documents(name: str, split: Split, chat: ChatSource | None, base: Path | None) -> list[str]:
    """The documents of one half, in order of digest."""
    if name == "prose":
        return split_documents(prose_documents(), split)
    if name == "code":
        return split_documents(code_documents(), split)
    if name == "chat":
        if chat is None:
            raise BadCheckData(
                "the text 'chat' needs a model that answers prompts", hint="remove chat from check.data"
            )
        # Prompts are split before they are answered: only the half that is needed costs time.
        return chat_documents(chat, split_documents(PROMPTS, split))
    render: Callable[[Sequence[Message]], str] | None = chat.render if chat else None
    return split_documents(file_documents((base or Path()) / name, name=name, render=render), split)


def split_documents(documents: Sequence[str], split: Split) -> list[str]:
    """One half of the distinct documents, by rank of SHA-256: even ranks for checks, odd for calibration."""
    distinct = {_key(d): d for d in documents if d.strip()}
    ranked = [distinct[key] for key in sorted(distinct)]
    return ranked[0 if split == "check" else 1 :: 2]


def _key(document: str) -> bytes:
    return hashlib.sha256(document.encode("utf-8", "surrogatepass")).digest()


def _passages(documents: Sequence[str], characters: int) -> Iterator[str]:
    """Passages in rounds: the first of every document, then the second of those that have one, and so on."""
    cut = [_rotated(_cut(document, characters), document) for document in documents]
    for round_number in range(max(map(len, cut), default=0)):
        for passages in cut:
            if round_number < len(passages):
                yield passages[round_number]


def _rotated(passages: list[str], document: str) -> list[str]:
    """The passages starting from one that the document's digest picks, wrapping round."""
    first = int.from_bytes(_key(document)[:4], "big") % len(passages)
    return passages[first:] + passages[:first]


def _cut(document: str, characters: int) -> list[str]:
    """Pieces of a document of at least `characters`, except the last, cut at line ends."""
    pieces: list[str] = []
    begin = 0
    while len(document) - begin > characters:
        end = document.find("\n", begin + characters)
        if end < 0:
            break
        pieces.append(document[begin:end])
        begin = end + 1
    return [*pieces, document[begin:]]


def _sizes(tokens: int, window: int) -> list[int]:
    """Widths of the windows."""
    whole, rest = divmod(tokens, window)
    return [window] * whole + ([rest] if rest >= 2 else [])


def _fill(
    passages: Iterator[str], encode: Encode, sizes: Sequence[int], bos: int | None
) -> tuple[IntArray, ...]:
    """Windows of these sizes, as many as the text fills; the last one may be short if the text ends in it."""
    start = [] if bos is None else [bos]
    windows: list[IntArray] = []
    stream: list[int] = []
    for size in sizes:
        need = size - len(start)
        while len(stream) < need and (passage := next(passages, None)) is not None:
            stream += encode(passage + _SEPARATOR)
        if not stream and need:
            break
        windows.append(np.array(start + stream[:need], np.int64))
        del stream[:need]
    return tuple(windows)


def _digest(windows: Sequence[IntArray]) -> str:
    """SHA-256 over each window's length and tokens, as little-endian 64-bit integers."""
    hasher = hashlib.sha256()
    for window in windows:
        hasher.update(np.array([len(window)], "<i8").tobytes())
        hasher.update(window.astype("<i8").tobytes())
    return hasher.hexdigest()
