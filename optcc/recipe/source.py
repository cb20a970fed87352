"""YAML with line numbers: a document as nodes, and scalars with the place they came from.

The reader is schema-driven: it walks the node tree that ruamel composes (YAML 1.2) and never builds Python
objects from tags, so a recipe can't run code, and anchors can't blow up.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

from optcc.errors import RecipeField, RecipeSyntax

Scalar = str | int | float | bool | None

_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = frozenset(_TAG + kind for kind in ("null", "bool", "int", "float", "str", "timestamp"))


@dataclass(frozen=True)
class Where:
    """A place in a recipe: what error messages print, and where relative paths start.

    Attributes:
        file: as the user named it, or `preset NAME`.
        line: from 1; 0 when there is no line (a `--set`).
        base: absolute directory of the outermost recipe file (the current directory for a preset):
            `./my.py:MyPass` is taken relative to it.
        note: what changed the entry since it was read, for example the `--set` that did.
    """

    file: str
    line: int
    base: Path
    note: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place} ({self.note})" if self.note else place


class Entry(NamedTuple):
    """One key of a mapping: its text, its line, and the node of its value."""

    key: str
    where: Where
    node: Any


@dataclass(frozen=True)
class Source:
    """One YAML text and where it came from.

    Attributes:
        file: as error messages name it.
        base: where relative paths of the finished recipe start: see `Where.base`.
        folder: directory that relative paths in this text start from; None for a preset, which has no paths.
    """

    file: str
    base: Path
    folder: Path | None = None

    def rebase(self, path: str) -> str:
        """A path written in this text, as seen from `base`; unchanged where both directories are the same."""
        if self.folder is None or (self.folder == self.base and not os.path.isabs(path)):
            return path
        moved = Path(os.path.relpath(self.folder / path, self.base)).as_posix()
        return moved if moved.startswith("../") else f"./{moved}"

    def at(self, node: Any) -> Where:
        """The place of a node."""
        return Where(self.file, node.start_mark.line + 1, self.base)

    def parse(self, text: str) -> Any:
        """The root node of `text`, or None for an empty document. Raises RecipeSyntax with the line."""
        try:
            return YAML(typ="safe", pure=True).compose(text)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = f"{self.file}:{mark.line + 1}:{mark.column + 1}" if mark else self.file
            what = " ".join(part for part in (error.problem, error.context) if part)
            hint = "indent with spaces, not tabs" if "'\\t'" in what else None
            raise RecipeSyntax(f"not valid YAML: {what}", where=place, hint=hint) from error
        except YAMLError as error:
            raise RecipeSyntax(f"not valid YAML: {error}".splitlines()[0], where=self.file) from error
        except RecursionError as error:
            raise RecipeSyntax("nested too deeply", where=self.file) from error

    def mapping(self, node: Any, path: str) -> Iterator[Entry]:
        """The entries of a mapping node. Raises RecipeField for other nodes, odd keys and duplicates."""
        if not isinstance(node, MappingNode):
            raise self.wrong(node, path, "a mapping")
        seen: dict[str, int] = {}
        for key_node, value in node.value:
            if not isinstance(key_node, ScalarNode):
                raise RecipeField(
                    f"{path or 'the recipe'}: a key must be plain text", where=str(self.at(key_node))
                )
            key, where = str(key_node.value), self.at(key_node)
            if key in seen:
                name = f"{path}.{key}" if path else key
                raise RecipeField(
                    f"{name}: given twice", where=str(where), hint=f"the first one is on line {seen[key]}"
                )
            seen[key] = where.line
            if isinstance(value, ScalarNode) and value.style is None and value.value == "":
                # The parser puts a value that was left out at the next token, lines further down.
                value.start_mark = key_node.end_mark
            yield Entry(key, where, value)

    def items(self, node: Any, path: str) -> list[Any]:
        """The nodes of a list. Raises RecipeField for another kind of node."""
        if not isinstance(node, SequenceNode):
            raise self.wrong(node, path, "a list")
        return list(node.value)

    def scalar(self, node: Any, path: str) -> Scalar:
        """The plain value of a scalar node; a date stays text. Raises RecipeField for anything else."""
        if not isinstance(node, ScalarNode):
            raise self.wrong(node, path, "a plain value")
        tag = str(node.tag)
        if tag not in _PLAIN_TAGS:
            raise RecipeField(
                f"{path}: tags are not supported here: {tag.removeprefix(_TAG)}", where=str(self.at(node))
            )
        if tag in (_TAG + "str", _TAG + "timestamp"):
            return str(node.value)
        try:
            value = YAML(typ="safe", pure=True).constructor.construct_object(node)
        except (ValueError, YAMLError) as error:
            raise RecipeField(
                f"{path}: can't read {node.value!r} as a number", where=str(self.at(node))
            ) from error
        if isinstance(value, float) and not math.isfinite(value):
            raise RecipeField(f"{path}: {node.value} is not a finite number", where=str(self.at(node)))
        assert value is None or isinstance(value, bool | int | float)
        return value

    def wrong(self, node: Any, path: str, expected: str) -> RecipeField:
        """The error for a value of the wrong type."""
        name = path or "the recipe"
        return RecipeField(f"{name}: expected {expected}, found {describe(node)}", where=str(self.at(node)))


def describe(node: Any) -> str:
    """A node in an error message: a value in quotes, or what kind of thing it is."""
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    if node.tag == _TAG + "null":
        return "nothing"
    return repr(str(node.value))
