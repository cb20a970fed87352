"""The JSON Schema of `report/report.json`, from the types of `optcc/report/shape.py`.

`python -m tools.gen_docs` writes it to docs/report.schema.json.
"""

from __future__ import annotations

import inspect
import json
import typing
from types import NoneType, UnionType
from typing import Any, Literal, NotRequired, get_args, get_origin, get_type_hints, is_typeddict

from optcc.report.shape import VERSION, ReportJson

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}


def report_schema() -> str:
    """The schema as JSON text (draft 2020-12)."""
    definitions: dict[str, Any] = {}
    root = _schema(ReportJson, definitions)
    definitions["ReportJson"]["properties"]["version"] = {"const": VERSION}
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The report of an optcc compile",
        "description": "Written by `make docs`; edit optcc/report/shape.py instead.",
    }
    return json.dumps({**head, **root, "$defs": dict(sorted(definitions.items()))}, indent=2) + "\n"


def _schema(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a type; TypedDicts go to `definitions` under their name."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return {}
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    if is_typeddict(kind):
        return _object(kind, definitions)
    if origin is NotRequired:
        return _schema(arguments[0], definitions)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (UnionType, typing.Union):
        return {"anyOf": [_schema(a, definitions) for a in arguments]}
    if origin is list:
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(arguments[1], definitions)}
    raise TypeError(f"no schema for {kind}")


def _object(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    name = kind.__name__
    if name not in definitions:
        hints = get_type_hints(kind, include_extras=True)
        definitions[name] = {}  # taken, should the type hold itself
        definitions[name] = {
            "type": "object",
            "description": inspect.cleandoc(kind.__doc__ or ""),
            "properties": {key: _schema(hint, definitions) for key, hint in hints.items()},
            "required": [key for key, hint in hints.items() if get_origin(hint) is not NotRequired],
        }
    return {"$ref": f"#/$defs/{name}"}
