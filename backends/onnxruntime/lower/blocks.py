"""Block kernels: which quantized weights ONNX Runtime's MatMulNBits and GatherBlockQuantized take, and how they want
them stored.

Both read unsigned fields of 8, 4 or 2 bits, and zero points packed the same way. Two-level scales, scales shared by
rows and formats that are not integers have no such kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

import optcc.ir.ops  # noqa: F401 - registers the operators
from optcc.ir.formats import find_format
from optcc.ir.pattern import normalized

LINEAR = torch.ops.optcc.quantized_linear.default
EMBEDDING = torch.ops.optcc.quantized_embedding.default
_FORMATS = ("int8", "int4", "ternary")
_SCALES = (torch.float32, torch.float16)

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Table:
    """The stored part of a quantized operator."""

    packed: fx.Node
    scale: fx.Node
    zero: fx.Node | None
    tensor_scale: fx.Node | None
    format: str
    group: int
    rows: int = 1

    @staticmethod
    def of(node: fx.Node) -> Table:
        """Of a quantized_linear, quantized_embedding or dequantize node."""
        given = normalized(node)[0]
        if node.target is LINEAR:
            return Table(*given[1:5], *given[6:9])
        if node.target is EMBEDDING:
            return Table(*given[1:7])
        return Table(*given[:7])

    @property
    def bits(self) -> int:
        """Of one stored value."""
        return find_format(self.format).bits

    @property
    def width(self) -> int:
        """K."""
        return find_format(self.format).width(int(self.packed.meta["val"].shape[-1]))

    def why_no_kernel(self) -> str | None:
        """Why the block kernels don't take it, or None."""
        if self.format not in _FORMATS:
            return f"there is no kernel for {self.format} weights on a CPU"
        if self.tensor_scale is not None or self.rows != 1:
            return "there is no kernel for scales of several rows"
        if self.group < 16 or self.group & (self.group - 1):
            return f"the block kernels take groups of 16, 32, 64 and so on, not {self.group}"
        parts = [self.packed, self.scale] + ([self.zero] if self.zero is not None else [])
        if any(part.op != "get_attr" for part in parts):
            return "the weight is computed"
        if self.scale.meta["val"].dtype not in _SCALES:
            return "the scales are not float32 or float16"
        return None


def linear_kernel(node: fx.Node) -> int | None:
    """The accuracy level at which MatMulNBits computes exactly what a quantized_linear says, or None.

    Level 4 quantizes activations to int8 in the weight's own groups, rounding each group of a token to nearest even by
    `127 / max|x|`. Level 1 leaves them in float; for 8 bits that is forty times slower than a plain product.
    """
    act_format, act_group, act_scale = normalized(node)[0][9:]
    table = Table.of(node)
    if table.why_no_kernel():
        return None
    if act_format == "int8":
        return 4 if act_group == table.group and act_scale == "float32" else None
    return 1 if not act_format and table.format != "int8" else None


def embedding_kernel(node: fx.Node) -> bool:
    """Whether a quantized_embedding becomes GatherBlockQuantized."""
    return normalized(node)[0][7] == torch.float32 and not Table.of(node).why_no_kernel()


@dataclass(frozen=True)
class Repacking:
    """How a tensor's bytes are turned into a kernel's, and back; `shape` is the stored one."""

    shape: tuple[int, ...]
    forward: Callable[[Bytes], Bytes]
    back: Callable[[Bytes], Bytes]


def repackings(graphs: Iterable[fx.Graph], native: Container[str]) -> dict[str, Repacking]:
    """Weight name -> how it is stored, for everything that these kernels read otherwise than the module has it.

    Packed weights in `native` are stored for our own operators (`tables.py`). int8 becomes uint8 with 128 added; zero
    points become unsigned fields. All readers of such a tensor see it that way.
    """
    found: dict[str, Repacking] = {}
    for graph in graphs:
        for node in graph.nodes:
            takes = (node.target is LINEAR and linear_kernel(node) is not None) or (
                node.target is EMBEDDING and embedding_kernel(node) and Table.of(node).format != "int8"
            )
            if takes and str(Table.of(node).packed.target) not in native:
                found.update(_of_table(Table.of(node)))
    return found


def _of_table(table: Table) -> dict[str, Repacking]:
    found: dict[str, Repacking] = {}
    if table.format == "int8":
        found[str(table.packed.target)] = _sign(_shape(table.packed))
    if table.zero is not None:
        shape = _shape(table.zero)
        found[str(table.zero.target)] = _sign(shape) if table.bits == 8 else _fields(shape, table.bits)
    return found


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(int(d) for d in node.meta["val"].shape)


def _sign(shape: tuple[int, ...]) -> Repacking:
    """int8 plus 128 as uint8: the sign bit turned over."""

    def turn(raw: Bytes) -> Bytes:
        return raw ^ np.uint8(0x80)

    return Repacking(shape, turn, turn)


def _fields(shape: tuple[int, ...], bits: int) -> Repacking:
    """int8 [N, G] as unsigned fields [N, bytes], each row filled up to whole bytes."""
    rows, groups = shape
    each, middle = 8 // bits, 1 << (bits - 1)
    stored = -(-groups // each)

    def forward(raw: Bytes) -> Bytes:
        fields = np.zeros((rows, stored * each), np.uint8)
        fields[:, :groups] = raw.view(np.int8).reshape(shape) + np.int8(middle)
        packed = np.zeros((rows, stored), np.uint8)
        for place in range(each):
            packed |= fields[:, place::each] << np.uint8(bits * place)
        return packed.reshape(-1)

    def back(raw: Bytes) -> Bytes:
        packed = raw.reshape(rows, stored)
        fields = [(packed >> np.uint8(bits * place)) & np.uint8((1 << bits) - 1) for place in range(each)]
        levels = np.stack(fields, -1).reshape(rows, -1)[:, :groups].astype(np.int8) - np.int8(middle)
        return np.ascontiguousarray(levels).view(np.uint8).reshape(-1)

    return Repacking((rows, stored), forward, back)
