"""The model's tokenizer as its users know it: transformers' own, from the model's own files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optcc.frontend.program import ModelSource
from optcc.frontend.tokenizer import end_tokens

Messages = Sequence[Mapping[str, str]]


class OriginalTokenizer:
    """Reads and writes text for the original model.

    Args:
        tokenizer: of transformers.
        ends: ids that the model's configuration says end an answer.
    """

    def __init__(self, tokenizer: Any, ends: frozenset[int]) -> None:
        self._tokenizer, self.ends = tokenizer, ends

    @property
    def chats(self) -> bool:
        """Whether it has a chat template."""
        return bool(self._tokenizer.chat_template)

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        """Token ids of a text."""
        found: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special)
        return found

    def is_special(self, token: int) -> bool:
        """Whether an id stands for no text: an added token, or one that decoding leaves out."""
        return token in self._tokenizer.added_tokens_decoder or token in self._tokenizer.all_special_ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special ones left out."""
        found: str = self._tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return found

    def render(self, messages: Messages) -> str:
        """A conversation, up to where the answer begins."""
        found: str = self._tokenizer.apply_chat_template(
            [dict(m) for m in messages], tokenize=False, add_generation_prompt=True
        )
        return found


def original_tokenizer(source: ModelSource) -> OriginalTokenizer | str:
    """The tokenizer of a model directory, or why transformers has none."""
    if source.directory is None:
        return "the model has no directory"
    import transformers

    # By the kind of model, AutoTokenizer may build another pre-tokenizer than the one that tokenizer.json describes.
    fast = (source.directory / "tokenizer.json").is_file()
    kind: Any = transformers.PreTrainedTokenizerFast if fast else transformers.AutoTokenizer
    try:
        made = kind.from_pretrained(source.directory, local_files_only=True)
    except Exception as error:  # whatever a vendor's loader raises, the artifact may still be right
        return f"transformers can't load it: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    return OriginalTokenizer(made, end_tokens(source.directory))
