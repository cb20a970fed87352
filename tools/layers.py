"""The layering linter: which part of optcc may import which, and where vendors' libraries may be imported.

It reads the sources with `ast`; nothing is imported. Run as a program it prints `file:line: what` for each
breach and exits 1 if there is one. The rules are the three tables below; docs/architecture.md says why.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Anyone may import these; they import only each other.
BASE = frozenset(
    {
        "optcc",
        "optcc.cache",
        "optcc.error",
        "optcc.errors",
        "optcc.files",
        "optcc.host",
        "optcc.memory",
        "optcc.numbers",
        "optcc.recipe_errors",
    }
)

# Part -> the parts it may import besides itself and the base. `compile` may import all but `cli`.
PARTS: dict[str, frozenset[str]] = {
    "ir": frozenset(),
    "pm": frozenset({"ir"}),
    "recipe": frozenset({"ir", "pm"}),
    "quant": frozenset({"ir", "pm", "recipe"}),
    "passes": frozenset({"ir", "pm", "recipe", "quant"}),
    "artifact": frozenset(),
    "runtime": frozenset({"artifact"}),
    "frontend": frozenset({"ir"}),
    "export": frozenset({"ir", "recipe", "artifact", "frontend", "backends"}),
    "report": frozenset({"artifact", "accuracy"}),
    "accuracy": frozenset({"ir", "frontend", "artifact", "runtime"}),
    "diff": frozenset({"ir", "artifact", "accuracy", "backends", "export", "report"}),
    "backends": frozenset({"ir", "pm", "recipe", "quant", "passes", "artifact", "runtime"}),
    "recipes": frozenset(),
}
PARTS["compile"] = frozenset(PARTS)
PARTS["cli"] = frozenset(PARTS)
PARTS["testing"] = frozenset(PARTS)

# Vendor's library -> the only modules (by prefix) that may import it, and those only inside functions.
VENDORS: dict[str, tuple[str, ...]] = {
    "gguf": ("optcc.frontend",),
    "huggingface_hub": ("optcc.frontend",),
    "modelopt": ("optcc.quant.modelopt",),
    "onnx": ("optcc.backends.onnxruntime",),
    "onnx_ir": ("optcc.backends.onnxruntime",),
    "onnxruntime": ("optcc.backends.onnxruntime",),
    "tensorrt": ("optcc.backends.tensorrt",),
    "transformers": ("optcc.frontend",),
    "triton": ("optcc.backends.triton",),
}

# `optcc run` and `optcc --help` load these: no torch, and at module level nothing from outside the zone.
TORCH_FREE_PARTS = ("cli", "recipe", "artifact", "runtime", "recipes", "report")
# Besides these, `optcc.backends` and its direct members: a probe must not load what it looks for.
TORCH_FREE_MODULES = frozenset(
    {
        "optcc.__main__",
        "optcc.backends.onnxruntime.executor",
        "optcc.backends.onnxruntime.native",
        "optcc.backends.onnxruntime.native.build",
        "optcc.backends.onnxruntime.native.pools",
        "optcc.backends.onnxruntime.native.sampling",
        "optcc.backends.onnxruntime.session",
    }
)


@dataclass(frozen=True)
class Import:
    """One imported module, and how: `module_level` means that importing the file imports it."""

    module: str
    line: int
    module_level: bool


def module_name(path: Path, root: Path = ROOT) -> str:
    """The dotted import name of a file under `root`; passes/x.py is optcc.passes.x."""
    parts = path.relative_to(root).with_suffix("").parts
    parts = parts if parts[0] == "optcc" else ("optcc", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """The part a module of optcc belongs to: `base`, a name of PARTS, or `compile`."""
    if module in BASE:
        return "base"
    name = module.split(".")[1]
    if name == "__main__":
        return "cli"
    return name if name in PARTS else "compile"


def is_torch_free(module: str) -> bool:
    """Whether importing the module must not import torch."""
    backend_package = module.startswith("optcc.backends") and module.count(".") <= 2
    if module in BASE or module in TORCH_FREE_MODULES or backend_package:
        return True
    return part_of(module) in TORCH_FREE_PARTS


def imports(tree: ast.Module) -> Iterator[Import]:
    """Every import in a file, at any depth, in order.

    `from a.b import c` yields `a.b.c` when `a.b` is a package of optcc's (c may be a module), else `a.b`.
    """
    todo: list[tuple[ast.AST, bool]] = [(tree, True)]
    while todo:
        node, top = todo.pop(0)
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = (
                [f"{module}.{alias.name}" for alias in node.names] if module.startswith("optcc") else [module]
            )
            yield from (Import(name, node.lineno, top) for name in names)
        inside_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            only_typing = (
                isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) and child in node.body
            )
            todo.append((child, top and not inside_function and not only_typing))


def breaches(module: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """What one module does against the rules, as (line, sentence)."""
    for found in imports(tree):
        top = found.module.split(".")[0]
        if top in VENDORS:
            yield from _vendor(module, found, top)
        elif top == "optcc":
            yield from _layer(module, found)
        elif top in ("passes", "backends", "recipes"):
            yield found.line, f"import optcc.{found.module}, not {found.module}"
        if top == "torch" and found.module_level and is_torch_free(module):
            yield found.line, f"{module} must import no torch at module level"


def _vendor(module: str, found: Import, vendor: str) -> Iterator[tuple[int, str]]:
    allowed = VENDORS[vendor]
    if not module.startswith(allowed):
        yield found.line, f"{vendor} may be imported only in {', '.join(allowed)}"
    elif found.module_level and (is_torch_free(module) or not module.startswith("optcc.backends.")):
        # The compiling side of a backend is itself imported inside functions, so it may name its vendor at the top.
        yield found.line, f"{vendor} must be imported inside a function"


def _layer(module: str, found: Import) -> Iterator[tuple[int, str]]:
    owner = _owner(found.module)
    mine, theirs = part_of(module), part_of(owner)
    allowed = PARTS.get(mine, frozenset())
    if theirs not in ("base", mine) and theirs not in allowed:
        yield found.line, f"{mine} may not import {theirs} ({found.module})"
    if mine == theirs == "backends" and not _same_backend(module, owner):
        yield found.line, f"a backend may not import another one ({found.module})"
    if found.module_level and is_torch_free(module) and not is_torch_free(owner):
        yield found.line, f"{module} must import {found.module} inside a function: it loads torch"


def _owner(name: str) -> str:
    """The module behind an imported name: itself, or, for an attribute, where it stands."""
    path = ROOT.joinpath(*name.split("."))
    is_module = path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()
    return name if is_module else name.rpartition(".")[0]


def _same_backend(module: str, other: str) -> bool:
    """Backends share the contract, and the `reference` one, which runs what their vendor doesn't take."""
    ours, theirs = module.split(".")[2:3], other.split(".")[2:3]
    return not ours or not theirs or ours == theirs or theirs[0] in ("protocol", "registry", "reference")


def sources(root: Path = ROOT) -> Iterator[Path]:
    """Every source file of the package, once: the links inside optcc/ are not followed."""
    for folder in ("optcc", "passes", "backends", "recipes"):
        for path in sorted((root / folder).rglob("*.py")):
            inside = path.relative_to(root).parts
            linked = inside[0] == "optcc" and inside[1] in ("passes", "backends", "recipes")
            if not linked:
                yield path


def main() -> int:
    """Check the whole package and print every breach."""
    found = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path in sources()
        for line, what in breaches(module_name(path), ast.parse(path.read_text(encoding="utf-8")))
    ]
    print("\n".join(found) or "layers: no breach")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
