"""Quantization schemes: `recipes/schemes/*.yaml` as frozen values.

A scheme says how weights and activations are stored, and how much accuracy that may cost. It is pure data:
passes, the ledger and every backend read the same value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NoReturn

from optcc.errors import RecipeField, RecipeSyntax, UnknownScheme, nearest
from optcc.recipe import readers
from optcc.recipe.fields import version
from optcc.recipe.readers import Reader
from optcc.recipe.schema import METRICS
from optcc.recipe.source import Source

# The names of optcc.ir.formats.FORMATS and SCALES, written out so that reading a recipe needs no torch.
WEIGHT_TYPES: Mapping[str, float] = {"int8": 8, "int4": 4, "int3": 3, "ternary": 2, "e4m3": 8, "e2m1": 4}
"""Number format of weights -> bits of one value."""
INTEGER_TYPES = ("int8", "int4", "int3")
"""The formats that can have zero points."""
ACTIVATION_TYPES = ("int8", "e4m3", "e2m1")
SCALE_BYTES: Mapping[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2, "e8m0": 1, "e4m3": 1}
"""Type of scales -> bytes of one."""
TWO_LEVEL = ("e4m3",)
"""Scale types that come with one float32 scale of the whole tensor."""
GROUP_MULTIPLE = 16


@dataclass(frozen=True)
class WeightFormat:
    """How a weight [out, in] is stored.

    Attributes:
        type: number format of one value, of WEIGHT_TYPES.
        group: input channels that share a scale; 0 is the whole row.
        symmetric: no zero point.
        scale: type of the scales, of SCALE_BYTES.
        rows: output channels that share a scale; 0 is all of them.
    """

    type: str
    group: int
    symmetric: bool = True
    scale: str = "float32"
    rows: int = 1

    @property
    def two_level(self) -> bool:
        """Whether one scale of the whole tensor multiplies the groups' scales."""
        return self.scale in TWO_LEVEL

    def bytes(self, rows: int, width: int) -> tuple[int, int]:
        """Bytes of the packed values of a weight [rows, width], and of its scales and zero points."""
        blocks = -(-rows // self.rows) if self.rows else 1
        groups = blocks * (width // self.group if self.group else 1)
        each = SCALE_BYTES[self.scale] + (0 if self.symmetric else 1)
        values = rows * width * WEIGHT_TYPES[self.type] / 8
        return int(values), groups * each + (4 if self.two_level else 0)


@dataclass(frozen=True)
class ActivationFormat:
    """How the input of a linear is rounded at run time.

    Attributes:
        type: number format of one value, of ACTIVATION_TYPES.
        group: channels of a token that share a scale; 0 is one scale per token.
        scale: type of the scales.
        static: one scale for the whole tensor, found by calibration, instead of scales computed at run time.
    """

    type: str
    group: int = 0
    scale: str = "float32"
    static: bool = False


@dataclass(frozen=True)
class Scheme:
    """One quantization scheme. `activation` None keeps activations in floating point.

    `embedding` says whether the embedding and the head, tied or not, are quantized as well. `limits` are the
    defaults for `check.limits` of recipes that use the scheme.
    """

    name: str
    description: str
    weight: WeightFormat
    activation: ActivationFormat | None
    embedding: bool
    limits: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The scheme as plain data, for reports and cache keys."""
        return {**asdict(self), "limits": dict(sorted(self.limits.items()))}


def group_size(source: Source, node: Any, path: str) -> int:
    """0, or a multiple of 16: what the kernels' vector loads need."""
    value = source.scalar(node, path)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0 or value % GROUP_MULTIPLE:
        raise source.wrong(node, path, f"0 or a multiple of {GROUP_MULTIPLE}")
    return value


def row_count(source: Source, node: Any, path: str) -> int:
    """Output channels that share a scale: 1, 0 for all, or a multiple of 16."""
    value = source.scalar(node, path)
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or value < 0
        or (value > 1 and value % GROUP_MULTIPLE)
    ):
        raise source.wrong(node, path, f"0, 1 or a multiple of {GROUP_MULTIPLE}")
    return value


_WEIGHT: dict[str, Reader] = {
    "type": readers.one_of(tuple(WEIGHT_TYPES)),
    "group": group_size,
    "symmetric": readers.flag,
    "scale": readers.one_of(tuple(SCALE_BYTES)),
    "rows": row_count,
}
_ACTIVATION: dict[str, Reader] = {
    "type": readers.one_of(ACTIVATION_TYPES),
    "group": group_size,
    "scale": readers.one_of(tuple(SCALE_BYTES)),
    "static": readers.flag,
}


def _part(
    source: Source, node: Any, path: str, fields: Mapping[str, Reader], needed: tuple[str, ...]
) -> dict[str, Any]:
    """The values of one mapping of the file, by field name."""
    layer = readers.read_layer(
        source, node, {f"{path}.{key}": reader for key, reader in fields.items()}, path
    )
    for key in needed:
        if f"{path}.{key}" not in layer:
            raise RecipeField(f"{path}.{key}: missing", where=str(source.at(node)))
    return {key.removeprefix(f"{path}."): item.value for key, item in layer.items()}


def _refuse(source: Source, node: Any, what: str) -> NoReturn:
    raise RecipeField(what, where=str(source.at(node)))


def weight(source: Source, node: Any, path: str) -> WeightFormat:
    """The mapping {type, group, symmetric, scale, rows}."""
    made = WeightFormat(**_part(source, node, path, _WEIGHT, ("type", "group")))
    if not made.symmetric and made.type not in INTEGER_TYPES:
        _refuse(source, node, f"{path}.symmetric: only {', '.join(INTEGER_TYPES)} have zero points")
    if made.rows == 0 and made.group:
        _refuse(source, node, f"{path}.rows: one scale for the whole tensor (0) has no groups")
    return made


def activation(source: Source, node: Any, path: str) -> ActivationFormat:
    """The mapping {type, group, scale, static}."""
    made = ActivationFormat(**_part(source, node, path, _ACTIVATION, ("type", "group")))
    if made.static and made.group:
        _refuse(source, node, f"{path}.group: a static scale is one for the whole tensor, so the group is 0")
    return made


_FIELDS: dict[str, Reader] = {
    "version": version,
    "description": readers.text,
    "weight": weight,
    "activation": readers.optional(activation),
    "embedding": readers.flag,
    **{f"limits.{metric}": readers.number for metric in METRICS},
}
_REQUIRED = ("version", "description", "weight", "activation", "embedding")


def scheme_folder() -> Traversable:
    """Where the built-in schemes lie."""
    return files("optcc.recipes") / "schemes"


def list_schemes() -> list[str]:
    """Names of the built-in schemes, sorted."""
    return sorted(e.name.removesuffix(".yaml") for e in scheme_folder().iterdir() if e.name.endswith(".yaml"))


def load_scheme(name_or_path: str, base: Path | None = None) -> Scheme:
    """A built-in scheme by name, or a file relative to `base` (default: the current directory).

    Raises UnknownScheme with the nearest name, RecipeSyntax and RecipeField with file and line.
    """
    known = list_schemes()
    if name_or_path in known:
        place: Traversable = scheme_folder() / f"{name_or_path}.yaml"
        name, shown = name_or_path, f"scheme {name_or_path}"
    else:
        path = (base or Path.cwd()) / name_or_path
        place, name, shown = path, path.stem, name_or_path
    try:
        content = place.read_bytes().decode("utf-8")
    except OSError as error:
        raise UnknownScheme(f"there is no scheme {name_or_path}", hint=nearest(name, known)) from error
    except UnicodeDecodeError as error:
        raise RecipeSyntax("not UTF-8 text", where=shown) from error
    return _read(Source(shown, base or Path.cwd()), content, name)


def _read(source: Source, content: str, name: str) -> Scheme:
    root = source.parse(content)
    if root is None:
        raise RecipeSyntax("the file is empty", where=source.file)
    layer = readers.read_layer(source, root, _FIELDS)
    for key in _REQUIRED:
        if key not in layer:
            raise RecipeField(
                f"{key}: missing", where=str(source.at(root)), hint=f"add `{key.split('.')[-1]}:`"
            )
    values = {key: item.value for key, item in layer.items()}
    return Scheme(
        name=name,
        description=values["description"],
        weight=values["weight"],
        activation=values["activation"],
        embedding=values["embedding"],
        limits={m: values[f"limits.{m}"] for m in METRICS if f"limits.{m}" in values},
    )
