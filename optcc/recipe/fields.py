"""The keys of a recipe: one table from key path to reader, used for files and for `--set`."""

from __future__ import annotations

from typing import Any

from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

from optcc.errors import RecipeField, RecipeSyntax
from optcc.recipe import readers
from optcc.recipe.readers import Layer, Reader
from optcc.recipe.schema import DTYPES, METRICS, POOLINGS, STAGES, OptionValue, PassEntry
from optcc.recipe.source import Scalar, Source

VERSION = 1


def version(source: Source, node: Any, path: str) -> int:
    """The format's version: this release reads 1 and nothing else."""
    value = source.scalar(node, path)
    if value != VERSION or not isinstance(value, int) or isinstance(value, bool):
        error = source.wrong(node, path, str(VERSION))
        error.hint = f"this release of optcc reads recipes of version {VERSION}"
        raise error
    return VERSION


def datum(source: Source, node: Any, path: str) -> str:
    """The name of a built-in text, or a file: anything with a dot or a slash."""
    name = readers.text(source, node, path)
    return source.rebase(name) if "." in name or "/" in name else name


def option(source: Source, node: Any, path: str) -> OptionValue:
    """The value of a pass option: plain, or a list of them. Text that starts with ./ or ../ is a path."""
    if isinstance(node, SequenceNode):
        return tuple(_option_scalar(source, item, f"{path}[{i}]") for i, item in enumerate(node.value))
    if isinstance(node, MappingNode):
        raise source.wrong(node, path, "a plain value or a list")
    return _option_scalar(source, node, path)


def _option_scalar(source: Source, node: Any, path: str) -> Scalar:
    value = source.scalar(node, path)
    return source.rebase(value) if isinstance(value, str) and value.startswith(("./", "../")) else value


def pass_ref(source: Source, ref: str) -> str:
    """A pass id as it is; `path/to/file.py:Class` with the path seen from the recipe's base."""
    file, colon, cls = ref.rpartition(":")
    return f"{source.rebase(file)}:{cls}" if colon and file.endswith(".py") else ref


def pass_entry(source: Source, node: Any, path: str) -> PassEntry:
    """One item of a stage: an id, or an id with its options."""
    if isinstance(node, MappingNode):
        entries = list(source.mapping(node, path))
        if len(entries) != 1:
            error = source.wrong(node, path, "a pass id, or one pass id with its options")
            error.what += f" of {len(entries)} keys: " + ", ".join(entry.key for entry in entries)
            error.hint = "indent the options further than the pass id"
            raise error
        ref, where, body = entries[0]
        if isinstance(body, ScalarNode) and source.scalar(body, f"{path}.{ref}") is None:
            return PassEntry(pass_ref(source, ref), {}, where)
        name = f"{path}.{ref}"
        options = {e.key: option(source, e.node, f"{name}.{e.key}") for e in source.mapping(body, name)}
        return PassEntry(pass_ref(source, ref), options, where)
    if not isinstance(node, ScalarNode):
        raise source.wrong(node, path, "a pass id, or a pass id with its options")
    return PassEntry(pass_ref(source, readers.text(source, node, path)), {}, source.at(node))


FIELDS: dict[str, Reader] = {
    "version": version,
    "name": readers.text,
    "description": readers.text,
    "extends": readers.text,
    "model.dtype": readers.one_of(DTYPES),
    "model.max_context": readers.optional(readers.whole(1)),
    "model.trust_remote_code": readers.flag,
    "model.pooling": readers.optional(readers.one_of(POOLINGS)),
    "model.normalize": readers.flag,
    "target.backend": readers.text,
    "target.device": readers.text,
    "target.threads": readers.whole(0),
    **{f"passes.{stage}": readers.list_of(pass_entry) for stage in STAGES},
    "calibrate.data": readers.list_of(datum),
    "calibrate.tokens": readers.whole(1),
    "calibrate.window": readers.whole(2),
    "check.data": readers.list_of(datum),
    "check.tokens": readers.whole(1),
    "check.window": readers.whole(2),
    "check.classes": readers.list_of(readers.text),
    **{f"check.limits.{metric}": readers.optional(readers.number) for metric in METRICS},
    "check.enabled": readers.flag,
    "check.speed.requests": readers.whole(1),
    "check.speed.at-least": readers.number,
}


def read_recipe_layer(source: Source, content: str) -> Layer:
    """What one recipe file says. Raises RecipeSyntax, RecipeField."""
    root = source.parse(content)
    if root is None:
        raise RecipeSyntax("the file is empty", where=source.file, hint="a recipe starts with `version: 1`")
    layer = readers.read_layer(source, root, FIELDS)
    if "version" not in layer:
        raise RecipeField(
            "version: missing",
            where=str(source.at(root)),
            hint="add `version: 1` as the first line of the recipe",
        )
    return layer
