"""A `.pt2` file: a program that `torch.export.save` wrote. Its weights stay in the file and are mapped from there."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from optcc.errors import CaptureFailed, CorruptWeights, OptccError
from optcc.frontend import facts
from optcc.frontend.archive import Record, check_archive, read_records
from optcc.frontend.capture import weights_of
from optcc.frontend.digest import file_digest
from optcc.frontend.factory import output_names
from optcc.frontend.program import CapturedProgram, Dim, ModelSource, WeightSource

_FOLDERS = ("data/weights/", "data/constants/")


def program_source(path: Path) -> ModelSource:
    """The source of a `.pt2` file, after checking that it may be loaded. Raises CorruptWeights, UnsafeProgram."""
    check_archive(path)
    return ModelSource(path.stem, "program", file_digest(path), (path,), program=path)


def load_program(path: Path) -> ExportedProgram:
    """The program with its weights in memory.

    Raises:
        UnsafeProgram: see `optcc.frontend.archive`.
        CorruptWeights: torch can't load it, for example because it was written by a newer torch.
    """
    check_archive(path)
    try:
        return torch.export.load(path)
    except OptccError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CorruptWeights(
            f"torch {torch.__version__} can't load the program ({reason})",
            where=str(path),
            hint="export the model again with this torch",
        ) from error


class Program(nn.Module):
    """An exported program, run eagerly over flat named inputs: what a compiled artifact is held against."""

    def __init__(self, exported: ExportedProgram) -> None:
        super().__init__()
        self.body = _body(exported)
        self.names = input_names(exported)
        self.spec = exported.call_spec.in_spec

    def train(self, mode: bool = True) -> Program:
        """Nothing: a program is in the mode that it was exported in."""
        return self

    def forward(self, **inputs: Tensor) -> Any:
        """The results in order; one tensor where the program returns one."""
        arguments, named = pytree.tree_unflatten([inputs[name] for name in self.names], self.spec)
        results = pytree.tree_leaves(self.body(*arguments, **named))
        return results[0] if len(results) == 1 else tuple(results)


def _body(exported: ExportedProgram) -> nn.Module:
    """The program as a module, without its guards: they are Python source, and operators check sizes themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch about itself
        return exported.module(check_guards=False)


def input_names(exported: ExportedProgram) -> tuple[str, ...]:
    """Names of the flat inputs, in order. Raises CaptureFailed for inputs that are not tensors."""
    nodes = {n.name: n for n in exported.graph.find_nodes(op="placeholder")}
    names = exported.graph_signature.user_inputs
    for name in names:
        node = nodes.get(name) if isinstance(name, str) else None
        if node is None or not isinstance(node.meta.get("val"), Tensor):
            raise CaptureFailed(
                f"the program's input {name!r} is not a tensor",
                hint="export the model with tensors as inputs only",
            )
    return tuple(str(name) for name in names)


def example_inputs(exported: ExportedProgram, where: str) -> dict[str, Tensor]:
    """The inputs that the program was exported with. Raises CaptureFailed when the file has none."""
    names = input_names(exported)
    leaves = pytree.tree_leaves(exported.example_inputs)
    if exported.example_inputs is None or len(leaves) != len(names):
        raise CaptureFailed("the program was saved without its example inputs", where=where)
    return dict(zip(names, leaves, strict=True))


def capture_program(source: ModelSource) -> CapturedProgram:
    """The program as the compiler reads it. Raises what `load_program` and `input_names` raise."""
    assert source.program is not None
    exported = load_program(source.program)
    names = input_names(exported)
    body = _body(exported)
    weights, placeholders = weights_of(exported, body, _stored(exported, source.program), prefix="")
    dims, limits = _dims(exported, names)
    counted = {k: v for k, v in facts.count(body, 0).items() if k not in ("attentions", "ropes")}
    outputs = output_names(exported)
    return CapturedProgram(
        exported, weights, placeholders, names, dims, outputs, "function", None, source, counted, limits
    )


def _stored(exported: ExportedProgram, path: Path) -> dict[str, WeightSource]:
    """Where every weight that lies in one piece can be mapped from; others keep their value."""
    records = read_records(path)
    files: dict[str, Record] = {}
    for folder in _FOLDERS:
        record = records[f"{folder}model_{folder.split('/')[1]}_config.json"]
        with path.open("rb") as file:
            file.seek(record.offset)
            config = json.loads(file.read(record.nbytes))["config"]
        files |= {name: records[folder + payload["path_name"]] for name, payload in config.items()}
    found = {}
    for name, value in exported.state_dict.items():
        start = value.storage_offset() * value.dtype.itemsize
        nbytes = value.numel() * value.dtype.itemsize
        if name in files and value.is_contiguous() and start + nbytes <= files[name].nbytes:
            shape = tuple(value.shape)
            found[name] = WeightSource(value.dtype, shape, None, path, files[name].offset + start, nbytes)
    return found


def _dims(
    exported: ExportedProgram, names: tuple[str, ...]
) -> tuple[Mapping[str, tuple[Dim, ...]], dict[str, int]]:
    """Sizes of every input, and the largest that a named one may have.

    A file has no names for what varies: the first axis of an input is `B`, others are `D1`, `D2` by their place.
    """
    nodes = {n.name: n for n in exported.graph.find_nodes(op="placeholder")}
    known: dict[str, str] = {}

    def name(symbol: str, axis: int) -> str:
        wanted = "B" if axis == 0 else f"D{axis}"
        while symbol not in known and wanted in known.values():
            wanted += "_"
        return known.setdefault(symbol, wanted)

    def show(extent: Any, axis: int) -> Dim:
        if isinstance(extent, int):
            return extent
        text = str(extent.node.expr)
        return re.sub(r"\b[suz]+\d+\b", lambda found: name(found.group(), axis), text)

    dims = {
        key: tuple(show(extent, axis) for axis, extent in enumerate(nodes[key].meta["val"].shape))
        for key in names
    }
    ranges = {str(symbol): values.upper for symbol, values in exported.range_constraints.items()}
    limits = {known[s]: int(u) for s, u in ranges.items() if s in known and getattr(u, "is_Integer", False)}
    return dims, limits
