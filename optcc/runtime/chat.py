"""Messages to prompt text through the model's own chat template, rendered as transformers renders it.

A template comes with a model, so it is foreign code: it runs in Jinja's immutable sandbox and sees plain data
only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from optcc.errors import MissingPackage, NotATextModel
from optcc.runtime.faults import BadPrompt

if TYPE_CHECKING:
    from jinja2 import Environment
    from jinja2.ext import Extension

# Names a message's reasoning goes by; templates read the first.
_REASONING = ("reasoning_content", "thinking", "reasoning")


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: the Jinja text.
        bos_token, eos_token: their spelling; templates write them out.
        now: the clock behind `strftime_now`.
    """

    def __init__(
        self,
        source: str,
        *,
        bos_token: str = "",
        eos_token: str = "",
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        environment = _environment(now)
        from jinja2 import TemplateError

        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise NotATextModel(f"the model's chat template is not valid: {error}") from error
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}

    @classmethod
    def load(cls, directory: Path, *, bos_token: str = "", eos_token: str = "") -> ChatTemplate:
        """Read `chat_template.jinja` of an artifact's `tokenizer/` directory. Raises NotATextModel (E704)."""
        file = directory / "chat_template.jinja"
        if not file.is_file():
            raise NotATextModel(
                "the model has no chat template", where=str(file), hint="give a plain prompt instead"
            )
        return cls(file.read_text(encoding="utf-8"), bos_token=bos_token, eos_token=eos_token)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The prompt text; encode it with `add_special=False`.

        Args:
            messages: dicts with "role" and "content" (and whatever else the template knows), JSON data only.
            add_generation_prompt: end with the header of the answer.
            tools: JSON schemas of functions the model may call.

        Raises BadPrompt (E705) when the template refuses the messages, in its own words.
        """
        from jinja2 import TemplateError

        try:
            # Through JSON and back: the template gets fresh plain data and no object with methods of its own.
            plain = json.loads(
                json.dumps({"messages": list(messages), "tools": list(tools) if tools else None})
            )
        except (TypeError, ValueError) as error:
            raise BadPrompt(f"chat messages must be plain JSON data: {error}") from error
        if not all(isinstance(message, dict) for message in plain["messages"]):
            raise BadPrompt("every chat message must be a mapping with a role and a content")
        try:
            return self._template.render(
                messages=[_with_reasoning(message) for message in plain["messages"]],
                tools=plain["tools"],
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._tokens,
            )
        # Templates do arithmetic and concatenate: a missing content surfaces as TypeError rather than
        # TemplateError.
        except (TemplateError, TypeError, ValueError) as error:
            raise BadPrompt(f"the chat template refuses the messages: {error}") from error


def _environment(now: Callable[[], datetime]) -> Environment:
    """Jinja as chat templates expect it: block trimming, loop controls, and four helpers."""
    try:
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise MissingPackage("chat templates need jinja2", hint="pip install 'jinja2>=3.1.6'") from error
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _generation_tag()]
    )

    def strftime_now(form: str) -> str:
        return now().strftime(form)

    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = strftime_now
    return environment


def _generation_tag() -> type[Extension]:
    """`{% generation %}` marks the assistant's words for training; here it only passes them on."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012 (jinja2 declares it like this)

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    return Generation


def _raise(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML, which would put `\\u003c` into prompts."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    reasoning = next((message[key] for key in _REASONING if message.get(key) is not None), None)
    return (
        message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}
    )
