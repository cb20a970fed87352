"""Readers of single values: a YAML node in, a checked Python value out, or E103 with the line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from optcc.errors import RecipeField, nearest
from optcc.recipe.source import Source, Where

Reader = Callable[[Source, Any, str], Any]
"""(source, node, key path) -> value."""


class Value(NamedTuple):
    """A value and the place it was read from."""

    value: Any
    where: Where


Layer = dict[str, Value]
"""What one file says: key path -> value. Layers merge by plain dictionary update."""


def text(source: Source, node: Any, path: str) -> str:
    """Text; a number must be put in quotes."""
    value = source.scalar(node, path)
    if not isinstance(value, str):
        raise source.wrong(node, path, "text")
    return value


def flag(source: Source, node: Any, path: str) -> bool:
    """A truth value: true or false."""
    value = source.scalar(node, path)
    if not isinstance(value, bool):
        raise source.wrong(node, path, "true or false")
    return value


def whole(minimum: int) -> Reader:
    """A whole number of at least `minimum`."""

    def read(source: Source, node: Any, path: str) -> int:
        value = source.scalar(node, path)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise source.wrong(node, path, f"a whole number >= {minimum}")
        return value

    return read


def number(source: Source, node: Any, path: str) -> float:
    """A finite number >= 0."""
    value = source.scalar(node, path)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise source.wrong(node, path, "a number >= 0")
    return float(value)


def one_of(choices: Sequence[str | int]) -> Reader:
    """One of a few values."""

    def read(source: Source, node: Any, path: str) -> str | int:
        value = source.scalar(node, path)
        if isinstance(value, bool) or not isinstance(value, str | int) or value not in choices:
            error = source.wrong(node, path, "one of " + ", ".join(map(str, choices)))
            error.hint = nearest(str(value), [str(choice) for choice in choices])
            raise error
        return value

    return read


def optional(reader: Reader) -> Reader:
    """The same, or null for None."""

    def read(source: Source, node: Any, path: str) -> Any:
        from ruamel.yaml.nodes import ScalarNode

        if isinstance(node, ScalarNode) and source.scalar(node, path) is None:
            return None
        return reader(source, node, path)

    return read


def list_of(reader: Reader) -> Reader:
    """A list, as a tuple. Items are named `path[0]`, `path[1]` …"""

    def read(source: Source, node: Any, path: str) -> tuple[Any, ...]:
        return tuple(reader(source, item, f"{path}[{i}]") for i, item in enumerate(source.items(node, path)))

    return read


def read_layer(source: Source, root: Any, fields: Mapping[str, Reader], path: str = "") -> Layer:
    """Read a mapping by a table of dotted key path -> reader; a prefix of a path is a nested mapping.

    Raises RecipeField for a key that is in no path, naming the nearest one that is.
    """
    prefix = f"{path}." if path else ""
    layer: Layer = {}
    for key, where, node in source.mapping(root, path):
        full = prefix + key
        if full in fields:
            layer[full] = Value(fields[full](source, node, full), where)
        elif any(known.startswith(full + ".") for known in fields):
            layer.update(read_layer(source, node, fields, full))
        else:
            raise RecipeField(f"{full}: unknown key", where=str(where), hint=nearest_key(key, prefix, fields))
    return layer


def nearest_key(key: str, prefix: str, fields: Mapping[str, Reader]) -> str:
    """A hint for an unknown key: the same word elsewhere, or the closest key of this mapping."""
    elsewhere = [known for known in fields if known.rpartition(".")[2] == key]
    if elsewhere:
        return "did you mean " + " or ".join(elsewhere) + "?"
    return nearest(
        key, {known[len(prefix) :].partition(".")[0] for known in fields if known.startswith(prefix)}
    )
