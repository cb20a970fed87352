"""Find passes: by path in this package, by entry point in installed packages, by `file.py:Class` anywhere.

There is no table to edit: `passes/fuse/qkv.py` is `fuse.qkv` because it is there.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from optcc.errors import PassFailed, UnknownPass, nearest
from optcc.pm.options import read_options
from optcc.pm.passes import Pass

ENTRY_POINTS = "optcc.passes"


def passes_root() -> Path:
    """Directory of the built-in passes."""
    return Path(__file__).parent.parent / "passes"


def pass_ids() -> list[str]:
    """Ids of all built-in passes and of those installed packages offer, sorted."""
    root = passes_root()
    found = [
        ".".join(path.relative_to(root).with_suffix("").parts).replace("_", "-")
        for path in root.rglob("*.py")
        if not path.name.startswith("_")
    ]
    return sorted([*found, *(e.name for e in importlib.metadata.entry_points(group=ENTRY_POINTS))])


def load_pass(ref: str, base: Path | None = None, where: str | None = None) -> type[Pass]:
    """The class of a pass.

    Args:
        ref: a pass id, or `path/to/file.py:ClassName`.
        base: what a relative path is relative to; the current directory when omitted.
        where: place in the recipe, for errors.

    Raises:
        UnknownPass: there is none, with the nearest ids.
        PassFailed: the file can't be imported.
    """
    if ".py:" in ref:
        return _from_file(ref, base, where)
    path = passes_root().joinpath(*ref.replace("-", "_").split(".")).with_suffix(".py")
    if path.is_file() and not path.name.startswith("_") and "_" not in ref:
        module = importlib.import_module("optcc.passes." + ref.replace("-", "_"))
        return _only_pass(module, ref)
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if entry.name == ref:
            cls: type[Pass] = entry.load()
            cls.id = ref
            cls.file = Path(str(sys.modules[cls.__module__].__file__))
            return cls
    raise UnknownPass(f"there is no pass `{ref}`", where=where, hint=nearest(ref, pass_ids()))


def build_pass(
    ref: str, options: Mapping[str, object], *, base: Path | None = None, where: str | None = None
) -> Pass:
    """A pass with its options.

    Raises:
        UnknownPass, UnknownOption, BadOption: with the place in the recipe.
    """
    cls = load_pass(ref, base, where)
    return cls(**read_options(cls, options, ref, where))


def _only_pass(module: ModuleType, ref: str) -> type[Pass]:
    found = [
        c
        for c in vars(module).values()
        if isinstance(c, type) and issubclass(c, Pass) and c.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise PassFailed(
            f"passes/{ref.replace('.', '/')}.py must define exactly one pass, it has {len(found)}"
        )
    return found[0]


def _from_file(ref: str, base: Path | None, where: str | None) -> type[Pass]:
    file, _, name = ref.rpartition(":")
    path = ((base or Path.cwd()) / file).resolve()
    if not path.is_file():
        raise UnknownPass(
            f"there is no file `{path.name}` for the pass `{ref}`", where=where, hint=f"looked at {path}"
        )
    # One module per content: an edited file is a new module, the same file is loaded once.
    unique = "optcc_plugin_" + hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:16]
    module = sys.modules.get(unique)
    if module is None:
        spec = importlib.util.spec_from_file_location(unique, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[unique] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[unique]
            raise PassFailed(
                f"{path.name} can't be imported: {type(error).__name__}: {error}", where=where
            ) from error
    cls = getattr(module, name, None)
    if not (isinstance(cls, type) and issubclass(cls, Pass)):
        known = [
            n
            for n, c in vars(module).items()
            if isinstance(c, type) and issubclass(c, Pass) and c.__module__ == unique
        ]
        raise UnknownPass(f"`{path.name}` has no pass `{name}`", where=where, hint=nearest(name, known))
    cls.id = ref
    cls.file = path
    return cls
