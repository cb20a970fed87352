"""Text to token ids and back, from the files of an artifact; and text out of a stream of ids, piece by piece.

`tokenizer/tokenizer.json` is the file of the `tokenizers` library. `tokenizer/special.json` holds:

    eos_token_ids  list of ids that end an answer
    bos_token_id   id or null
    add_bos        whether a prompt starts with it
    bos_token, eos_token   optional: their text, for the chat template (else looked up in the vocabulary)
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optcc.errors import CorruptArtifact, MissingPackage

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

_MOST_KNOWN = 8192
"""Tokens of which is kept what they are alone."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@dataclass(frozen=True)
class SpecialTokens:
    """Which ids start and end a text, with their spelling for the chat template (empty if they have none)."""

    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None = None
    add_bos: bool = False
    bos_token: str = ""
    eos_token: str = ""

    @classmethod
    def from_json(cls, data: Mapping[str, Any], backend: Backend) -> SpecialTokens:
        """Read special.json; keys beyond those of this class are left to others."""
        eos = tuple(int(token) for token in data["eos_token_ids"])
        bos = data.get("bos_token_id")
        return cls(
            eos_token_ids=eos,
            bos_token_id=bos,
            add_bos=bool(data.get("add_bos", False)),
            bos_token=data.get("bos_token") or _spelling(backend, bos),
            eos_token=data.get("eos_token") or _spelling(backend, eos[0] if eos else None),
        )


class Tokenizer:
    """A text tokenizer. `special` says what the vocabulary file does not."""

    def __init__(self, backend: Backend, special: SpecialTokens) -> None:
        self._backend = backend
        self.special = special
        # Of tokens alone, which streams ask for again and again.
        self._alone = lru_cache(maxsize=_MOST_KNOWN)(self._decode_alone)
        self.is_byte = lru_cache(maxsize=_MOST_KNOWN)(self._is_byte)

    @classmethod
    def load(cls, directory: Path) -> Tokenizer:
        """Read an artifact's `tokenizer/` directory.

        Raises MissingPackage (E208) without the tokenizers library, CorruptArtifact (E602) if a file can't be
        read.
        """
        try:
            from tokenizers import Tokenizer as Backend
        except ImportError as error:
            raise MissingPackage("reading text needs tokenizers", hint="pip install tokenizers") from error
        file = directory / "tokenizer.json"
        try:
            backend = Backend.from_str(file.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises bare Exception for a file it can't parse
            raise CorruptArtifact(f"not a tokenizer: {error}", where=str(file)) from error
        # A file saved after training or batching can carry these; they would cut or pad every prompt.
        backend.no_padding()
        backend.no_truncation()
        file = directory / "special.json"
        try:
            special = SpecialTokens.from_json(json.loads(file.read_text(encoding="utf-8")), backend)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CorruptArtifact(f"can't read the special tokens: {error!r}", where=str(file)) from error
        return cls(backend, special)

    @property
    def vocab_size(self) -> int:
        """Ids the tokenizer knows, added tokens included; a model's vocabulary may be padded beyond."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        """Token ids of a text.

        Args:
            text: special tokens spelled out in it are recognised, as chat templates need.
            add_special: start as the model expects (once: a leading BOS is not doubled). Off for rendered
                chats, whose template writes it.
        """
        ids: list[int] = list(self._backend.encode(text, add_special_tokens=add_special).ids)
        bos = self.special.bos_token_id
        if add_special and self.special.add_bos and bos is not None and ids[:1] != [bos]:
            ids.insert(0, bos)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out; bytes that aren't UTF-8 become U+FFFD."""
        if len(ids) == 1:
            return self._alone(ids[0])
        return self._backend.decode(list(ids), skip_special_tokens=True)

    def stream(self) -> DetokenizeStream:
        """A fresh incremental decoder."""
        return DetokenizeStream(self)

    def _decode_alone(self, token: int) -> str:
        return self._backend.decode([token], skip_special_tokens=True)

    def _is_byte(self, token: int) -> bool:
        """A byte-fallback token, such as `<0x0A>`: what it means depends on the bytes that follow it."""
        return _BYTE_TOKEN.fullmatch(_spelling(self._backend, token)) is not None


class DetokenizeStream:
    """Text piece by piece: the pieces of `push` and the final `flush`, joined, equal `decode` of all ids.

    Text is held back while it ends in the middle of a character or in a run of byte-fallback tokens, so a
    piece never holds half a character. It decodes a window of a few tokens each time, never the whole answer:
    a piece is what the new token adds to the window. The window always holds a visible token before the new
    one (once there was any), because decoders treat the first visible token differently: they strip its
    leading space.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._done = 0  # tokens of the window whose text is out
        self._out = ""  # and that text
        self._text = ""  # the window's text

    def push(self, token: int) -> str:
        """The text that is certain now."""
        self._window.append(token)
        before, self._text = self._text, self._tokenizer.decode(self._window)
        text = self._text
        # An invisible token changes nothing: bytes on both sides of it may still belong together.
        if text == before or text.endswith(REPLACEMENT) or self._tokenizer.is_byte(token):
            return ""
        piece = text[len(self._out) :]
        # Slide on: what the next token adds is seen against the tokens of this piece alone.
        self._window = self._window[self._done :]
        self._done = len(self._window)
        self._out = self._text = self._tokenizer.decode(self._window)
        return piece

    def flush(self) -> str:
        """What is still held back, U+FFFD and all. The stream is empty afterwards."""
        piece = self._text[len(self._out) :]
        self._window, self._done, self._out, self._text = [], 0, "", ""
        return piece


def _spelling(backend: Backend, token: int | None) -> str:
    return (backend.id_to_token(token) or "") if token is not None else ""
