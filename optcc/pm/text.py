"""Read a pipeline back from its text: `canonicalize.dce,fuse.qkv{max-width=4096},fix(8){a,b}`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from optcc.errors import PipelineText
from optcc.pm.discover import build_pass
from optcc.pm.passes import Pass
from optcc.pm.pipeline import Fix, Pipeline

_REF = re.compile(r"[\w./~-]+(?::\w+)?")
_VALUE = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s{},\[\]"]+')


def parse_pipeline(text: str, base: Path | None = None) -> Pipeline:
    """The pipeline that `str` printed; spaces and line breaks between passes are ignored.

    Args:
        text: the pipeline.
        base: directory that `file.py:Class` references are relative to.

    Raises:
        PipelineText: with the position.
        UnknownPass, UnknownOption, BadOption: as in a recipe.
    """
    reader = _Reader(text, base)
    passes = reader.passes()
    if reader.at < len(text):
        raise reader.fail("a comma or the end is expected")
    return Pipeline(passes)


class _Reader:
    def __init__(self, text: str, base: Path | None) -> None:
        self.text, self.at, self.base = text, 0, base

    def fail(self, why: str) -> PipelineText:
        return PipelineText(f"{why}, not `{self.text[self.at : self.at + 12]}`", where=f"position {self.at}")

    def space(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def take(self, mark: str) -> bool:
        self.space()
        if self.text.startswith(mark, self.at):
            self.at += len(mark)
            return True
        return False

    def expect(self, mark: str) -> None:
        if not self.take(mark):
            raise self.fail(f"`{mark}` is expected")

    def passes(self) -> tuple[Pass, ...]:
        self.space()
        if self.at >= len(self.text) or self.text[self.at] == "}":
            return ()
        found = [self.one()]
        while self.take(","):
            found.append(self.one())
        self.space()
        return tuple(found)

    def one(self) -> Pass:
        self.space()
        match = _REF.match(self.text, self.at)
        if not match:
            raise self.fail("a pass id is expected")
        self.at = match.end()
        if match[0] == "fix" and self.take("("):
            times = self.value()
            if not isinstance(times, int):
                raise self.fail("fix needs a number of rounds")
            self.expect(")")
            self.expect("{")
            inner = self.passes()
            self.expect("}")
            return Fix(inner, times)
        return build_pass(match[0], self.options() if self.take("{") else {}, base=self.base)

    def options(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not self.take("}"):
            match = re.compile(r"[\w-]+").match(self.text, self.at)
            if not match:
                raise self.fail("an option name is expected")
            self.at = match.end()
            self.expect("=")
            found[match[0]] = self.value()
            self.space()
        return found

    def value(self) -> Any:
        if self.take("["):
            items: list[Any] = []
            while not self.take("]"):
                items.append(self.value())
                self.take(",")
            return items
        self.space()
        match = re.compile(r"[^\s{},\[\]\"()]+").match(self.text, self.at) or _VALUE.match(self.text, self.at)
        if not match:
            raise self.fail("a value is expected")
        self.at = match.end()
        return _read(match[0])


def _read(text: str) -> Any:
    if text.startswith('"'):
        return json.loads(text)
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
