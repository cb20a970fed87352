"""Which quantized weights our own operators read, and how these are stored (`native/packing.py`).

`optcc.QuantizedLinear` and `optcc.QuantizedEmbedding` read a table of their own form: weights, scales and zero points
in one tensor. So a table is theirs when every reader of its parts is, in all graphs; otherwise ONNX Runtime's block
kernels get it (`blocks.py`), or plain operators.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import fx

from optcc.backends.onnxruntime.lower.blocks import EMBEDDING, LINEAR, Table
from optcc.backends.onnxruntime.native.packing import LARGEST_GROUP, Canonical, Packing
from optcc.ir.module import Module
from optcc.ir.pattern import normalized

_FORMATS = ("int8", "int4")
_SCALES = (torch.float32, torch.float16)


@dataclass(frozen=True)
class NativeTable:
    """One table of our own operators: the names of its parts, and where they lie in the one tensor that is stored."""

    packed: str
    scale: str
    zero: str | None
    packing: Packing

    @staticmethod
    def of(table: Table) -> NativeTable:
        """Of weights that `why_not_native` takes."""
        rows, groups = (int(d) for d in table.scale.meta["val"].shape)
        half = table.scale.meta["val"].dtype == torch.float16
        packing = Packing(
            rows, table.width, table.width // groups, table.bits, half, zeros=table.zero is not None
        )
        zero = None if table.zero is None else str(table.zero.target)
        return NativeTable(str(table.packed.target), str(table.scale.target), zero, packing)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the module's weights that it holds."""
        return (self.packed, self.scale) if self.zero is None else (self.packed, self.scale, self.zero)

    @property
    def padding(self) -> int:
        """Bytes that fill up tiles and lines."""
        form = self.packing
        values = form.inputs * form.bits // 8 + form.groups * ((2 if form.half else 4) + form.zeros)
        return form.shape[0] * form.shape[1] - form.outputs * values

    def read(self, module: Module) -> Canonical:
        """Its parts as the module has them."""
        found = [module.weights[name].contiguous().numpy() for name in self.parts]
        return Canonical(*found)


def why_not_native(node: fx.Node) -> str | None:
    """Why our operators can't compute a quantized_linear or a quantized_embedding, or None."""
    table, given = Table.of(node), normalized(node)[0]
    if table.format not in _FORMATS:
        return f"{table.format} weights"
    if table.tensor_scale is not None or table.rows != 1:
        return "scales of several rows"
    group = table.group or table.width
    if group % 8 or group > LARGEST_GROUP:
        return f"groups of {group}"
    parts = [table.packed, table.scale] + ([table.zero] if table.zero is not None else [])
    if any(part.op != "get_attr" for part in parts):
        return "the weight is computed"
    if table.scale.meta["val"].dtype not in _SCALES:
        return "scales that are neither float32 nor float16"
    if node.target is EMBEDDING:
        return None if given[7] == torch.float32 else "rows that are not float32"
    if given[0].meta["val"].dtype != torch.float32:
        return "activations that are not float32"
    act_format, act_group, act_scale = given[9:]
    if act_format and (act_format != "int8" or act_scale != "float32"):
        return f"{act_format} activations with {act_scale} scales"
    if act_format and (act_group or table.width) != group:
        return f"weights in groups of {group} with activations in groups of {act_group or table.width}"
    return None


def native_tables(graphs: Iterable[fx.Graph]) -> dict[str, NativeTable]:
    """Packed weight's name -> its table, for every table that our operators alone read, at least one linear of them.

    A vocabulary that is only looked up stays as it is: there a row lies in one piece.
    """
    found: dict[str, NativeTable] = {}
    refused: set[str] = set()
    linears: set[str] = set()
    for graph in graphs:
        for node in graph.nodes:
            read = {str(part.target) for part in node.all_input_nodes if part.op == "get_attr"}
            if node.target not in (LINEAR, EMBEDDING) or why_not_native(node):
                refused |= read
                continue
            table = NativeTable.of(Table.of(node))
            if found.setdefault(table.packed, table) != table:
                refused.add(table.packed)
            refused |= read - set(table.parts)
            linears |= {table.packed} if node.target is LINEAR else set()
    # A part of two tables is stored by itself.
    owners: dict[str, str] = {}
    for table in found.values():
        for part in table.parts:
            if owners.setdefault(part, table.packed) != table.packed:
                refused.add(part)
    return {
        name: table for name, table in found.items() if name in linears and not refused & set(table.parts)
    }
