"""`--set KEY=VALUE`: one value of the merged recipe, replaced from the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optcc.errors import BadOverride, OptccError, nearest
from optcc.recipe.fields import FIELDS, option, pass_ref
from optcc.recipe.readers import Layer, Value
from optcc.recipe.schema import STAGES, PassEntry
from optcc.recipe.source import Source

_FIXED = ("version", "extends")


def apply_overrides(layer: Layer, overrides: Sequence[str], base: Path) -> Layer:
    """The layer with each `KEY=VALUE` applied in order.

    KEY is a key path of the recipe, or the id of a pass that the recipe lists followed by an option. Paths in
    VALUE are relative to the current directory, as everything on a command line. Raises BadOverride.
    """
    for item in overrides:
        source = Source(f"--set {item}", base, Path.cwd())
        key, equals, text = item.partition("=")
        if not equals or not key.strip():
            raise BadOverride("expected KEY=VALUE", where=source.file)
        try:
            layer = _apply(layer, key.strip(), source, source.parse(text if text.strip() else "null"))
        except BadOverride:
            raise
        except OptccError as error:
            raise BadOverride(error.what, where=source.file, hint=error.hint) from error
    return layer


def _apply(layer: Layer, key: str, source: Source, node: Any) -> Layer:
    if key in _FIXED:
        raise BadOverride(f"{key} can't be overridden", where=source.file, hint="write it in a recipe file")
    if key in FIELDS:
        return {**layer, key: Value(FIELDS[key](source, node, key), source.at(node))}
    ref, _, name = key.rpartition(".")
    wanted = {ref, pass_ref(source, ref)}
    stages = {path: layer[path] for path in (f"passes.{stage}" for stage in STAGES) if path in layer}
    listed = {entry.ref for stage in stages.values() for entry in stage.value}
    if not wanted & listed:
        raise BadOverride(
            f"{key} names nothing in this recipe", where=source.file, hint=_hint(key, name, listed)
        )
    value = option(source, node, key)

    def changed(entry: PassEntry) -> PassEntry:
        if entry.ref not in wanted:
            return entry
        notes = "; ".join(part for part in (entry.where.note, source.file) if part)
        where = dataclasses.replace(entry.where, note=notes)
        return dataclasses.replace(entry, options={**entry.options, name: value}, where=where)

    moved = {path: Value(tuple(map(changed, stage.value)), stage.where) for path, stage in stages.items()}
    return {**layer, **moved}


def _hint(key: str, name: str, listed: set[str]) -> str:
    """The closest key that would be valid: of the recipe, or of a pass that it lists."""
    paths = [path for path in FIELDS if path not in _FIXED]
    elsewhere = [path for path in paths if path.endswith(f".{key}")]
    if elsewhere:
        return "did you mean " + " or ".join(elsewhere) + "?"
    return nearest(key, [*paths, *(f"{ref}.{name}" for ref in listed)])
