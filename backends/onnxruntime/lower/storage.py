"""How a module's weights are stored: for which kernels, decided in one place for the weight file and for the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from optcc.artifact.weights import SafetensorsIndex
from optcc.backends.onnxruntime import native
from optcc.backends.onnxruntime.lower.blocks import Repacking, repackings
from optcc.backends.onnxruntime.lower.tables import NativeTable, native_tables
from optcc.ir.module import Module


@dataclass(frozen=True)
class Storage:
    """Weights that are stored otherwise than the module has them.

    Attributes:
        native: packed weight's name -> table of our own operators, stored under that name with all its parts.
        repackings: weight's name -> its form for ONNX Runtime's block kernels.
    """

    native: Mapping[str, NativeTable]
    repackings: Mapping[str, Repacking]


def plan_storage(module: Module) -> Storage:
    """For a compile on this machine: our own operators where they were built."""
    tables = native_tables(module.graphs.values()) if native.library() is not None else {}
    return Storage(tables, repackings(module.graphs.values(), tables))


def read_storage(module: Module, index: SafetensorsIndex) -> Storage:
    """Of an artifact, wherever it was compiled: a table of our own has no scales beside it."""
    candidates = native_tables(module.graphs.values())
    tables = {name: table for name, table in candidates.items() if table.scale not in index.tensors}
    return Storage(tables, repackings(module.graphs.values(), tables))
