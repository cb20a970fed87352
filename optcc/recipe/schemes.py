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
from typing import Any

from optcc.errors import RecipeField, RecipeSyntax, UnknownScheme, nearest
from optcc.recipe import readers
from optcc.recipe.fields import version
from optcc.recipe.readers import Reader
from optcc.recipe.schema import METRICS
from optcc.recipe.source import Source

BITS = (8,)
SCALE_DTYPES = ("float32", "float16")
GROUP_MULTIPLE = 16


@dataclass(frozen=True)
class WeightFormat:
    """How a weight [out, in] is stored.

    Attributes:
        bits: width of one stored value.
        group: input channels that share a scale; 0 is one scale per output channel.
        symmetric: no zero point.
        scale_dtype: type of the scales.
    """

    bits: int
    group: int
    symmetric: bool
    scale_dtype: str


@dataclass(frozen=True)
class ActivationFormat:
    """How the input of a linear is rounded at run time; `group` 0 is one scale per token."""

    bits: int
    group: int


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


_WEIGHT: dict[str, Reader] = {
    "weight.bits": readers.one_of(BITS),
    "weight.group": group_size,
    "weight.symmetric": readers.flag,
    "weight.scale_dtype": readers.one_of(SCALE_DTYPES),
}
_ACTIVATION: dict[str, Reader] = {"activation.bits": readers.one_of(BITS), "activation.group": group_size}


def activation(source: Source, node: Any, path: str) -> ActivationFormat:
    """The mapping {bits, group}."""
    layer = readers.read_layer(source, node, _ACTIVATION, path)
    for key in _ACTIVATION:
        if key not in layer:
            raise RecipeField(f"{key}: missing", where=str(source.at(node)))
    return ActivationFormat(layer["activation.bits"].value, layer["activation.group"].value)


_FIELDS: dict[str, Reader] = {
    "version": version,
    "description": readers.text,
    **_WEIGHT,
    "activation": readers.optional(activation),
    "embedding": readers.flag,
    **{f"limits.{metric}": readers.number for metric in METRICS},
}
_REQUIRED = ("version", "description", *_WEIGHT, "activation", "embedding")


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
        weight=WeightFormat(*(values[key] for key in _WEIGHT)),
        activation=values["activation"],
        embedding=values["embedding"],
        limits={m: values[f"limits.{m}"] for m in METRICS if f"limits.{m}" in values},
    )
