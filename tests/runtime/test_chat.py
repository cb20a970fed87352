"""Chat templates, rendered as transformers renders them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from optcc.errors import NotATextModel
from optcc.runtime import BadPrompt, ChatTemplate
from tests.needs import package

CHATML = """{% for message in messages %}
    {%- if loop.first and message.role != 'system' %}
<|im_start|>system
Be brief.<|im_end|>
    {% endif %}
<|im_start|>{{ message['role'] }}
{{ message.content }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
"""
STRICT = """{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('roles must alternate') }}{% endif %}
{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]{% else %}{% generation %} {{ m.content }}{{
eos_token }} {% endgeneration %}{% endif %}{% endfor %}"""
HELPERS = """{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.content == 'skip' %}{% continue %}{%
endif %} {% set ns.n = ns.n + 1 %}{{ m | tojson }}|{{ m.reasoning_content }}
{% if ns.n == 2 %}{% break %}{% endif %}{% endfor %}{{ ns.n }} {% if tools %}{{ tools | tojson(indent=2) }}{%
endif %} {{ dict(a=1).items() | list }}"""
TALK: list[dict[str, Any]] = [
    {"role": "user", "content": " What is <b> & 'é'? "},
    {"role": "assistant", "content": "skip"},
    {"role": "user", "content": "日本", "thinking": "hm"},
    {"role": "assistant", "content": "last"},
]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"x": "<int>"}}}]


@pytest.mark.parametrize("source", [CHATML, STRICT, HELPERS])
@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("tools", [None, TOOLS])
def test_same_as_transformers(source: str, prompt: bool, tools: list[dict[str, Any]] | None) -> None:
    utils = package("transformers.utils.chat_template_utils")
    (theirs,), _ = utils.render_jinja_template(
        [TALK],
        tools=tools,
        chat_template=source,
        add_generation_prompt=prompt,
        bos_token="<s>",
        eos_token="</s>",
    )
    ours = ChatTemplate(source, bos_token="<s>", eos_token="</s>")
    assert ours.render(TALK, add_generation_prompt=prompt, tools=tools) == theirs


def test_plain_text() -> None:
    text = ChatTemplate(CHATML).render([{"role": "user", "content": "Hi"}])
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_clock() -> None:
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", now=lambda: datetime(2025, 2, 3))
    assert template.render([]) == "03 Feb 2025"


def test_refusals_quote_the_template() -> None:
    template = ChatTemplate(STRICT)
    with pytest.raises(BadPrompt, match="roles must alternate"):
        template.render([TALK[0], TALK[0]])
    with pytest.raises(BadPrompt, match="plain JSON"):
        template.render([{"role": "user", "content": object()}])
    with pytest.raises(BadPrompt, match="mapping"):
        template.render(["hello"])  # type: ignore[list-item]
    with pytest.raises(BadPrompt):
        ChatTemplate("{{ 'a' + messages[0].content }}").render([{"role": "user", "content": None}])


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ strftime_now.__globals__ }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ namespace().__init__.__globals__ }}",
        "{{ '%s'.format.__self__.__class__.__base__ }}",
    ],
)
def test_templates_are_locked_in(attack: str) -> None:
    """The sandbox refuses, or hands out an undefined value, which renders to nothing."""
    try:
        text = ChatTemplate(attack).render([{"role": "user", "content": "x"}])
    except BadPrompt:
        text = ""
    assert text == ""


def test_missing_and_broken_templates(tmp_path: Path) -> None:
    with pytest.raises(NotATextModel, match="no chat template"):
        ChatTemplate.load(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(CHATML, encoding="utf-8")
    assert "Hi" in ChatTemplate.load(tmp_path).render([{"role": "user", "content": "Hi"}])
    with pytest.raises(NotATextModel, match="not valid"):
        ChatTemplate("{% for %}")
