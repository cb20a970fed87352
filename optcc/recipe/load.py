"""From a preset's name or a file to a resolved Recipe: find, follow `extends`, merge, override, build."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from optcc.errors import ExtendsCycle, RecipeNotFound, RecipeSyntax, nearest
from optcc.recipe.fields import read_recipe_layer
from optcc.recipe.overrides import apply_overrides
from optcc.recipe.readers import Layer
from optcc.recipe.schema import (
    METRICS,
    STAGES,
    CalibrateOptions,
    CheckOptions,
    ModelOptions,
    PassEntry,
    Recipe,
    SpeedLimit,
    TargetOptions,
)
from optcc.recipe.source import Source


def preset_folder() -> Traversable:
    """Where the presets lie: `recipes/*.yaml` of the package."""
    return files("optcc.recipes")


def list_presets(folder: Traversable | None = None) -> list[str]:
    """Names of the built-in recipes, sorted."""
    found = (entry.name for entry in (folder or preset_folder()).iterdir() if entry.is_file())
    return sorted(name.removesuffix(".yaml") for name in found if name.endswith(".yaml"))


def load_recipe(
    ref: str | Path, overrides: Sequence[str] = (), *, presets: Traversable | None = None
) -> Recipe:
    """Read a recipe and everything it extends.

    Args:
        ref: a preset's name, or a file (with a slash or a `.yaml` suffix, or any Path).
        overrides: `KEY=VALUE` strings, applied in order on top of the files.
        presets: another folder of presets than the package's own.

    Raises:
        RecipeNotFound, RecipeSyntax, RecipeField, ExtendsCycle, BadOverride: each with file and line.
    """
    folder = presets or preset_folder()
    root = _find(str(ref), Path.cwd(), folder, None) if isinstance(ref, str) else _Found(str(ref), Path(ref))
    base = Path(os.path.abspath(root.path)).parent if root.path else Path.cwd()
    layers, extends = _read_chain(root, base, folder)
    merged: Layer = {}
    for layer in reversed(layers):
        merged |= layer
    for key in ("name", "description"):
        # They are about one file, not about those built on it.
        merged.pop(key, None)
        if key in layers[0]:
            merged[key] = layers[0][key]
    return _build(apply_overrides(merged, overrides, base), root, extends, base)


def _read_chain(root: _Found, base: Path, presets: Traversable) -> tuple[list[Layer], tuple[str, ...]]:
    """The layers of `root` and of all that it extends, nearest first, and the names of those extended."""
    layers: list[Layer] = []
    chain: list[_Found] = []
    extends: list[str] = []
    found, said_at = root, None
    while True:
        if any(found.identity == seen.identity for seen in chain):
            names = " -> ".join(item.name for item in (*chain, found))
            raise ExtendsCycle(
                f"recipes extend each other: {names}", where=said_at, hint="remove one `extends:`"
            )
        chain.append(found)
        home = Path(os.path.abspath(found.path)).parent if found.path else None
        source = Source(found.name, base, home)
        layers.append(read_recipe_layer(source, found.read(presets, said_at)))
        parent = layers[-1].get("extends")
        if parent is None:
            return layers, tuple(extends)
        said_at = str(parent.where)
        found = _find(parent.value, home or base, presets, said_at)
        extends.append(source.rebase(parent.value) if found.path else found.preset)


def _build(layer: Layer, root: _Found, extends: tuple[str, ...], base: Path) -> Recipe:
    def section(name: str) -> dict[str, Any]:
        prefix = name + "."
        return {k.removeprefix(prefix): v.value for k, v in layer.items() if k.startswith(prefix)}

    # null takes back a limit of a recipe that this one extends.
    limits = {metric: limit for metric, limit in section("check.limits").items() if limit is not None}
    check = {key: value for key, value in section("check").items() if "." not in key}
    speed = {key.replace("-", "_"): value for key, value in section("check.speed").items()}
    stages: dict[str, tuple[PassEntry, ...]] = dict.fromkeys(STAGES, ()) | section("passes")
    values = {key: item.value for key, item in layer.items()}
    return Recipe(
        name=values.get("name", root.stem),
        description=values.get("description", ""),
        extends=extends,
        model=ModelOptions(**section("model")),
        target=TargetOptions(**section("target")),
        passes={name: stages[name] for name in STAGES},
        calibrate=CalibrateOptions(**section("calibrate")),
        check=CheckOptions(
            limits={m: limits[m] for m in METRICS if m in limits},
            speed=SpeedLimit(**speed) if speed else None,
            **check,
        ),
        base=base,
    )


class _Found:
    """A recipe that was found: a file, or a preset when `path` is None."""

    def __init__(self, name: str, path: Path | None, preset: str = "") -> None:
        self.name = name
        self.path = path
        self.preset = preset
        self.identity = f"preset {preset}" if path is None else os.path.realpath(path)
        self.stem = preset or Path(name).stem

    def read(self, presets: Traversable, said_at: str | None) -> str:
        """The text. Raises RecipeNotFound when it can't be opened, RecipeSyntax when it isn't UTF-8."""
        place: Traversable = self.path if self.path else presets / f"{self.preset}.yaml"
        try:
            return place.read_bytes().decode("utf-8")
        except FileNotFoundError as error:
            known = list_presets(presets)
            hint = nearest(self.stem, known) if known else None
            raise RecipeNotFound(f"there is no recipe {self.name}", where=said_at, hint=hint) from error
        except OSError as error:
            raise RecipeNotFound(
                f"can't read the recipe {self.name}: {error.strerror}", where=said_at
            ) from error
        except UnicodeDecodeError as error:
            line = bytes(error.object)[: error.start].count(b"\n") + 1
            raise RecipeSyntax("not UTF-8 text", where=f"{self.name}:{line}") from error


def _find(ref: str, folder: Path, presets: Traversable, said_at: str | None) -> _Found:
    """A preset by its name, or else a file relative to `folder`. A preset wins over a file without suffix."""
    if "/" not in ref and ref in list_presets(presets):
        return _Found(f"preset {ref}", None, ref)
    # Files are named the way the user reaches them from where the command runs.
    path = folder / ref
    return _Found(ref if said_at is None else os.path.relpath(path), path)
