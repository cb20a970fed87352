"""Does the artifact read and write text as its model does? Data for checks has passed none of this otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from optcc.accuracy.documents import code_documents, prose_documents
from optcc.accuracy.prompts import PROMPTS
from optcc.compile.texts import TextTools
from optcc.errors import TokenizerDiffers
from optcc.frontend import ModelSource
from optcc.frontend.reading import OriginalTokenizer, original_tokenizer

_CHARACTERS = 3000
"""Of each text."""
_ODD = "  Naïve café — 東京 🙂\t\n\n0123456789 x<y && z\u00a0\u200b ﬁ Å \r\n"
"""Blanks, accents, other scripts, digits and signs: where tokenizers differ."""
_CHATS: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": PROMPTS[0]}],
    [
        {"role": "user", "content": PROMPTS[1]},
        {"role": "assistant", "content": "Because of the air."},
        {"role": "user", "content": PROMPTS[2]},
    ],
    [
        {"role": "system", "content": "  Answer in one word. "},
        {"role": "user", "content": f" {PROMPTS[3]}\n"},
    ],
)


def require_same_reading(
    tools: TextTools, source: ModelSource, ends: Sequence[int] | None = None
) -> str | None:
    """Hold the artifact's tokenizer, chat template and end tokens against the model's own.

    Args:
        tools: of the artifact.
        source: the model.
        ends: ids at which the artifact's engine ends an answer; None for a model that gives none.

    Returns:
        Why they could not be compared, if so.

    Raises:
        TokenizerDiffers: naming the first difference.
    """
    original = original_tokenizer(source)
    if isinstance(original, str):
        return f"the artifact's tokenizer was not compared with the model's: {original}"
    for what in _differences(tools, original, ends):
        raise TokenizerDiffers(
            f"the artifact's tokenizer is not the model's: {what}",
            where="tokenizer/",
            hint="compile again; if the model's own files are right, report this as a bug",
        )
    return None


def _differences(tools: TextTools, original: OriginalTokenizer, ends: Sequence[int] | None) -> Iterator[str]:
    for text in _samples():
        for special in (False, True):
            found = tools.tokenizer.encode(text, add_special=special)
            wanted = original.encode(text, add_special=special)
            if found != wanted:
                yield _first_difference(found, wanted, text)
        if tools.tokenizer.decode(wanted) != original.decode(wanted):
            yield f"the tokens of {text[:30]!r} become another text"
        if _streamed(tools, wanted) != original.decode(wanted):
            yield f"the tokens of {text[:30]!r} become another text one by one"
    yield from _chat_differences(tools, original)
    special_ends = tools.tokenizer.special.eos_token_ids
    for stops, whose in ((ends, "the engine"), (special_ends, "tokenizer/special.json")):
        if stops is not None and (lost := original.ends - set(stops)):
            yield f"the model ends answers at {sorted(lost)}, {whose} only at {sorted(stops)}"
        # Markers of a turn's end are added where a model's configuration forgets them; nothing else is.
        if early := [t for t in set(stops or ()) - original.ends if not original.is_special(t)]:
            yield f"{whose} ends answers at {sorted(early)}, which are plain text"


def _chat_differences(tools: TextTools, original: OriginalTokenizer) -> Iterator[str]:
    if (tools.render is not None) != original.chats:
        yield (
            "its chat template is missing" if original.chats else "it has a chat template, the model has none"
        )
    elif tools.render is not None:
        for chat in _CHATS:
            try:
                wanted_text = original.render(chat)
            except Exception:  # a template that refuses a role
                continue
            found_text = tools.render(chat)
            if found_text != wanted_text:
                yield f"a chat ends in {found_text[-50:]!r}, the model's in {wanted_text[-50:]!r}"
            read = tools.tokenizer.encode(wanted_text, add_special=False)
            if read != (rightly := original.encode(wanted_text, add_special=False)):
                yield f"in a chat, {_first_difference(read, rightly, wanted_text)}"


def _streamed(tools: TextTools, ids: Sequence[int]) -> str:
    """Text as it is sent while tokens come."""
    stream = tools.tokenizer.stream()
    return "".join([*map(stream.push, ids), stream.flush()])


def _samples() -> list[str]:
    return [
        prose_documents()[0][:_CHARACTERS],
        code_documents()[0][:_CHARACTERS],
        _ODD,
        " ".join(PROMPTS[:4]),
    ]


def _first_difference(found: Sequence[int], wanted: Sequence[int], text: str) -> str:
    at = next(
        (i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b),
        min(len(found), len(wanted)),
    )
    return (
        f"{text[:20]!r}… becomes {len(found)} tokens with {list(found[at : at + 3])} at {at}, "
        f"the model reads {len(wanted)} with {list(wanted[at : at + 3])}"
    )
