"""Texts of a decoder, as its own tokenizer and chat template write them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optcc.accuracy.chat import ANSWER_TOKENS, ChatSource, plain_render
from optcc.accuracy.data import Split, TextSet, load_text_sets
from optcc.accuracy.overlap import REPEATED, SHARED, repeated, shared
from optcc.compile.original import Original
from optcc.errors import BadCheckData
from optcc.frontend import ModelSource, export_tokenizer
from optcc.recipe import CalibrateOptions, CheckOptions
from optcc.runtime.chat import ChatTemplate
from optcc.runtime.tokenizer import Tokenizer

Render = Callable[[Sequence[Mapping[str, str]]], str]
TextOptions = CheckOptions | CalibrateOptions


@dataclass(frozen=True)
class TextTools:
    """A tokenizer and, where the model has one, its chat template."""

    tokenizer: Tokenizer
    render: Render | None


def text_tools(root: Path) -> TextTools | None:
    """What lies in `root/tokenizer`; None for a model without a tokenizer."""
    folder = root / "tokenizer"
    if not (folder / "tokenizer.json").is_file():
        return None
    tokenizer = Tokenizer.load(folder)
    if not (folder / "chat_template.jinja").is_file():
        return TextTools(tokenizer, None)
    special = tokenizer.special
    template = ChatTemplate.load(folder, bos_token=special.bos_token or "", eos_token=special.eos_token or "")
    return TextTools(tokenizer, lambda messages: template.render([dict(m) for m in messages]))


def model_tools(source: ModelSource) -> TextTools | None:
    """Those of a model that nothing was written of yet."""
    if source.directory is None:
        return None
    with tempfile.TemporaryDirectory(prefix="optcc-tokenizer-") as folder:
        export_tokenizer(source, Path(folder) / "tokenizer")
        return text_tools(Path(folder))  # all of it is read now, nothing later


def decoder_texts(
    tools: TextTools,
    options: TextOptions,
    window: int,
    split: Split,
    digest: str,
    original: Callable[[], Original],
    base: Path | None,
) -> list[TextSet]:
    """The recipe's texts in windows of tokens.

    Args:
        tools: of the model.
        options: which texts, and how many tokens of them.
        window: tokens per window.
        split: which half of the documents.
        digest: of the model; its answers to our prompts are kept under it.
        original: opens the model; called when there are answers to be made.
        base: directory that data files are relative to.

    Raises:
        BadCheckData: a text is missing or too short.
    """
    tokenizer, special = tools.tokenizer, tools.tokenizer.special
    render = tools.render or plain_render

    def answer(prompts: Sequence[str]) -> list[str]:
        texts = [render([{"role": "user", "content": prompt}]) for prompt in prompts]
        encoded = [tokenizer.encode(text, add_special=False) for text in texts]
        found = original().answer(encoded, ANSWER_TOKENS, special.eos_token_ids)
        return [tokenizer.decode([t for t in ids if t not in special.eos_token_ids]).strip() for ids in found]

    return load_text_sets(
        options.data,
        lambda text: tokenizer.encode(text, add_special=False),
        tokens=options.tokens,
        window=window,
        split=split,
        chat=ChatSource(digest, answer, render),
        base=base,
        bos=special.bos_token_id if special.add_bos else None,
    )


def require_new(sets: Sequence[TextSet], learned: Sequence[str]) -> None:
    """Raise BadCheckData if windows repeat each other, or hold text that passes learned from.

    Args:
        sets: what is about to be compared.
        learned: `marks` of the calibration text, as it was used.
    """
    for text in sets:
        share = repeated(text.windows)
        if share > REPEATED:
            raise BadCheckData(
                f"{share:.0%} of the check's text {text.name!r} repeats other parts of it",
                hint="intervals would be too narrow; give more text, or remove what is there twice",
            )
    share = shared(learned, [w for text in sets for w in text.windows])
    if share > SHARED:
        raise BadCheckData(
            f"{share:.0%} of the text that passes learned from is in the check's text too",
            hint="what a pass learned from proves nothing about the artifact; split the data",
        )
