"""Options of passes: a frozen dataclass's fields, as text and as recipe values.

Field `max_users` is the option `max-users`. Supported types: bool, int, float, str, and tuples of str or int.
"""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Mapping
from typing import Any

from optcc.errors import BadOption, UnknownOption, nearest

_BARE = re.compile(r"[A-Za-z_][\w./-]*$")


def option_names(cls: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    """Fields of a pass by option name."""
    return {f.name.replace("_", "-"): f for f in dataclasses.fields(cls)}


def option_type(cls: type[Any], name: str) -> Any:
    """The declared type of the field behind option `name`."""
    return typing.get_type_hints(cls)[name.replace("-", "_")]


def show_options(instance: Any) -> str:
    """`{a=1 b=[x,y]}`; options at their default are left out, and the braces with them."""
    shown = []
    for name, field in option_names(type(instance)).items():
        value = getattr(instance, field.name)
        if field.default is dataclasses.MISSING or value != field.default:
            shown.append(f"{name}={show_value(value)}")
    return "{" + " ".join(shown) + "}" if shown else ""


def show_value(value: Any) -> str:
    """One option value as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return "[" + ",".join(show_value(v) for v in value) + "]"
    if isinstance(value, str):
        return value if _BARE.match(value) and value not in ("true", "false") else json.dumps(value)
    return repr(value)


def read_options(cls: type[Any], given: Mapping[str, object], ref: str, where: str | None) -> dict[str, Any]:
    """Constructor arguments from recipe values.

    Raises:
        UnknownOption: a name that is no option.
        BadOption: a value of the wrong type, or a required option missing.
    """
    fields = option_names(cls)
    arguments: dict[str, Any] = {}
    for name, value in given.items():
        if name not in fields:
            hint = nearest(name, fields) if fields else "it has no options"
            raise UnknownOption(f"pass `{ref}` has no option `{name}`", where=where, hint=hint)
        arguments[fields[name].name] = convert(
            value, option_type(cls, name), f"option `{name}` of `{ref}`", where
        )
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and field.name not in arguments:
            raise BadOption(f"pass `{ref}` needs the option `{name}`", where=where)
    return arguments


def convert(value: object, kind: Any, what: str, where: str | None) -> Any:
    """`value` as type `kind`.

    Raises:
        BadOption: it isn't one.
    """
    origin = typing.get_origin(kind)
    if origin is tuple:
        element = typing.get_args(kind)[0]
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(convert(v, element, what, where) for v in items)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in (int, float, str) and isinstance(value, kind) and not isinstance(value, bool):
        return value
    if kind is bool and isinstance(value, bool):
        return value
    shown = getattr(kind, "__name__", str(kind))
    raise BadOption(f"{what} must be {shown}, not {value!r}", where=where)
