"""The HTML report: whole, of one file, and open to nothing that a model's or a weight's name might carry."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from optcc.report.html import render_html

VOID = {"meta", "link", "input", "br"}


class Page(HTMLParser):
    """Tags that are open, ids, links, and everything that would be fetched."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.ids |= {found["id"] or ""} if "id" in found else set()
        self.links += [found[name] or "" for name in ("href", "src", "action") if name in found]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag, (tag, self.getpos())


def test_every_part_is_there(decoder: dict[str, Any]) -> None:
    html = render_html(
        decoder, {"optcc_version": "9.9", "pipeline": "a,\nb", "recipe": {"x": 1}, "files": {}}
    )
    page = Page(html)
    assert page.stack == []
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids
    assert {
        "accuracy",
        "layers",
        "passes",
        "sizes",
        "speed",
        "speed-limit",
        "roofline",
        "cost",
        "again",
    } <= page.ids
    assert page.tags.count("svg") >= 12
    for words in (
        "All 3 limits hold",
        "KL by window", "KL by position", "Greedy answers", "Size by pass", "Accuracy by pass",
        "Proof after every pass", "190 · 10⁹ operations/s", "decode, 16 requests", "no such width",
        "layers.4.mlp.up_proj",
        "+0.5 %", "Highest memory by stage", "128 tokens", "three linears take all of it", "two users", "rms-norm 5",
        "optcc rebuild build/x", "optcc check build/x &#39;a model.gguf&#39;", "33" * 32, "9.9", "torch 2.13",
    ):  # fmt: skip
        assert words in html, words


def test_nothing_is_fetched(decoder: dict[str, Any]) -> None:
    html = render_html(decoder)
    assert [link for link in Page(html).links if not link.startswith("#")] == ["data:,"]
    assert "http" not in html.replace("http-equiv", "")
    assert "url(" not in html
    assert "@import" not in html


def test_the_policy_allows_the_script_that_is_there(decoder: dict[str, Any]) -> None:
    html = render_html(decoder)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    assert f"sha256-{digest}" in policy[1]
    assert "default-src 'none'" in policy[1]


def test_names_stay_text(decoder: dict[str, Any]) -> None:
    evil = "</title><script>alert(1)</script>"
    decoder["model"] = decoder["check"]["measurements"]["texts"][0]["name"] = evil
    decoder["passes"][1]["tables"]["weights"][0]["weight"] = f"layers.1.{evil}"
    decoder["fusions"][0]["reasons"] = [evil]
    html = render_html(decoder)
    assert "<script>alert" not in html
    assert Page(html).tags.count("script") == 1


def test_a_function_and_missing_parts(function: dict[str, Any]) -> None:
    html = render_html(function)
    assert Page(html).stack == []
    assert "Over 4 examples, cosine of out is 0.999500" in html
    assert 'id="speed"' not in html
    assert "optcc check ARTIFACT MODEL" in html
    function["check"] = None
    function["status"] = "unchecked"
    assert "Nothing is known of its accuracy" in render_html(function)


@pytest.mark.parametrize(("outcome", "word"), [("fail", "failed"), ("undecided", "undecided")])
def test_a_speed_that_is_not_reached(decoder: dict[str, Any], outcome: str, word: str) -> None:
    decoder["speed_limit"]["outcome"] = outcome
    html = render_html(decoder)
    assert f'<strong class="pill">{word}</strong>' in html
    assert "speed of decode, 4 requests is 3" in html


def test_a_failure_says_what_and_by_how_much(failed: dict[str, Any]) -> None:
    html = render_html(failed)
    assert "1 of 4 limits broken, 2 undecided: kl of prose is 0.08" in html
    assert "an estimated 9,000 tokens would decide" in html
    assert "not measured" in html


@pytest.mark.parametrize("value", [None, 0.0, 1e-9])
def test_figures_bear_any_value(decoder: dict[str, Any], value: float | None) -> None:
    found = decoder["check"]["measurements"]
    for text in [*found["texts"], found["total"]]:
        for estimate in (*text["metrics"].values(), *(p["kl"] for p in text["positions"])):
            estimate.update(value=value, low=value, high=value)
        for window in text["windows"]:
            window["kl"] = value
    for verdict in decoder["check"]["gate"]["verdicts"]:
        verdict["measured"].update(value=value, low=None, high=None)
    assert Page(render_html(decoder)).stack == []


def test_it_is_the_same_every_time(decoder: dict[str, Any]) -> None:
    assert render_html(decoder) == render_html(decoder)
