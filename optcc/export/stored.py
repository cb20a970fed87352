"""The weights of a compiled module by the original model's names, whatever was fused since.

A fused weight is stored as one; `attrs["stacked"]`, which the fusion wrote, says which rows were whose. What a weight
is stored as, and how its input is rounded, is read off the graph, not off the recipe.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from optcc.errors import ExportRefused
from optcc.ir.formats import SCALES, find_format
from optcc.ir.module import Module, source_of
from optcc.ir.ops.quantized import PARTS, dequantize
from optcc.ir.pattern import normalized
from optcc.recipe.schemes import ActivationFormat, WeightFormat

_LINEAR = torch.ops.aten.linear.default
_EMBEDDING = torch.ops.aten.embedding.default
_DEQUANTIZE = torch.ops.optcc.dequantize.default
_QUANTIZED_LINEAR = torch.ops.optcc.quantized_linear.default
_QUANTIZED_EMBEDDING = torch.ops.optcc.quantized_embedding.default
_DYNAMIC = torch.ops.optcc.quantize_activation.default
_STATIC = torch.ops.optcc.quantize_static.default
_SCALE_NAMES = {form.dtype: name for name, form in SCALES.items()}


@dataclass(frozen=True)
class Rounding:
    """How a linear's input is rounded: the format, and the name of its stored scale, if it has one."""

    form: ActivationFormat
    scale: str | None = None


@dataclass(frozen=True)
class StoredWeight:
    """One quantized weight [O, K].

    Attributes:
        name: in the original model.
        form: how it is stored.
        rows: O.
        width: K.
        rounding: of the input of the linears that read it; None if they read it as it is.
        linear: whether a linear reads it.
        embedding: whether token ids are looked up in it.
        held: name of the weight in the module that has it.
        first: its first row there.
    """

    name: str
    form: WeightFormat
    rows: int
    width: int
    rounding: Rounding | None
    linear: bool
    embedding: bool
    held: str
    first: int = 0

    def label(self, module: Module) -> str:
        """Its scheme as the module knows it, for messages; or the format in words."""
        schemes = module.attrs.get("schemes")
        known = schemes.get(self.name) if isinstance(schemes, dict) else None
        return (
            str(known)
            if known
            else f"{self.form}, activations {self.rounding.form if self.rounding else None}"
        )

    @property
    def module(self) -> str:
        """Name of the layer that has the weight."""
        return self.name.removesuffix(".weight")

    def part(self, module: Module, name: str) -> Tensor | None:
        """`packed`, `scale`, `zero` or `tensor_scale`, only this weight's rows; None if there is none."""
        full = f"{self.held}.{name}"
        if full not in module.weights:
            return None
        tensor = module.weights[full]
        if name == "tensor_scale":
            return tensor
        block = 1 if name == "packed" else self.form.rows
        if block == 0:
            return tensor
        return tensor[self.first // block : -(-(self.first + self.rows) // block)]

    def dequantized(self, module: Module) -> Tensor:
        """Its values, float32 [O, K]."""
        return self.values(module, slice(0, self.rows))

    def values(self, module: Module, piece: slice) -> Tensor:
        """Values of some rows, float32 [n, K]; the first must begin a block of rows that share scales."""
        packed, scale, zero, whole = (self.part(module, part) for part in PARTS)
        assert packed is not None
        assert scale is not None
        block = self.form.rows or self.rows
        blocks = slice(piece.start // block, -(-piece.stop // block))
        layout = (self.form.type, self.form.group, self.form.rows)
        shift = None if zero is None else zero[blocks]
        return dequantize(packed[piece], scale[blocks], shift, whole, *layout, torch.float32)


def stored_weights(module: Module) -> list[StoredWeight]:
    """Every quantized weight, stacked ones taken apart, by name.

    Raises:
        ExportRefused: something other than a linear or a look-up reads one, two linears round its input differently, or
            something other than a quantized linear reads rounded values.
    """
    _refuse_other_readers(module)
    found: dict[str, StoredWeight] = {}
    for node in module.nodes():
        for weight in _read_by(node):
            before = found.get(weight.name)
            found[weight.name] = weight if before is None else _joined(before, weight)
    return sorted((piece for w in found.values() for piece in _pieces(module, w)), key=lambda w: w.name)


def _refuse_other_readers(module: Module) -> None:
    """Checkpoints say how the inputs of quantized linears are rounded, and of nothing else."""
    for rounded in module.find(_STATIC):
        for back in rounded.users:
            for reader in back.users:
                quantized = reader.target is _QUANTIZED_LINEAR or (
                    reader.target is _LINEAR and getattr(reader.args[1], "target", None) is _DEQUANTIZE
                )
                if quantized and reader.args[0] is back:
                    continue
                raise ExportRefused(
                    f"%{reader.name} ({reader.target}) reads values that are rounded with a static scale, and no "
                    "checkpoint format rounds what anything but a quantized linear reads",
                    where=source_of(reader),
                    hint="quantize.calibrated rounds the inputs of quantized linears alone; with quantize.static, "
                    "quantize every linear that reads the value",
                )


def plain_weights(module: Module) -> dict[str, tuple[str, slice | None]]:
    """Every weight that isn't quantized: its own name -> the weight that holds it, and which rows."""
    stacks = _stacks(module)
    plain: dict[str, tuple[str, slice | None]] = {}
    for held in module.weights:
        first = 0
        for name, rows in stacks.get(held, [(held, 0)]):
            plain[name] = (held, slice(first, first + rows) if held in stacks else None)
            first += rows
    return plain


def _stacks(module: Module) -> dict[str, list[tuple[str, int]]]:
    """Name of a stacked weight -> names and rows of what it was made of."""
    entry: Any = module.attrs.get("stacked", {})
    return {str(k): [(str(n), int(r)) for n, r in v] for k, v in entry.items()}


def _pieces(module: Module, weight: StoredWeight) -> Iterator[StoredWeight]:
    first = 0
    for name, rows in _stacks(module).get(weight.held, [(weight.held, weight.rows)]):
        yield replace(weight, name=name, rows=rows, first=first)
        first += rows


def _joined(a: StoredWeight, b: StoredWeight) -> StoredWeight:
    """One weight that several nodes read."""
    if a.linear and b.linear and a.rounding != b.rounding:
        raise ExportRefused(f"two linears read {a.name} and round their inputs in different ways")
    rounding = a.rounding if a.linear else b.rounding
    return replace(a, rounding=rounding, linear=a.linear or b.linear, embedding=a.embedding or b.embedding)


def _read_by(node: fx.Node) -> Iterator[StoredWeight]:
    """The quantized weights that one node reads."""
    given = normalized(node)[0] if node.op == "call_function" else []
    if node.target is _QUANTIZED_LINEAR:
        kind, group, scale = given[9:12]
        rounding = Rounding(ActivationFormat(kind, group, scale)) if kind else _rounding(given[0])
        yield _stored(given[1:5], given[6:9], linear=True, rounding=rounding)
    elif node.target is _QUANTIZED_EMBEDDING:
        yield _stored(given[1:5], [*given[5:7], 1], embedding=True)
    elif node.target is _DEQUANTIZE and given[0].op == "get_attr":
        for user in node.users:
            if user.target is _LINEAR and user.args[1] is node:
                yield _stored(given[:4], given[4:7], linear=True, rounding=_rounding(user.args[0]))
            elif user.target is _EMBEDDING and user.args[0] is node:
                yield _stored(given[:4], given[4:7], embedding=True)
            else:
                raise ExportRefused(
                    f"{user.target} reads the quantized weight {given[0].target}",
                    hint="checkpoint formats hold quantized linears; `skip` leaves the others plain",
                )


def _stored(
    parts: list[Any],
    layout: list[Any],
    *,
    linear: bool = False,
    embedding: bool = False,
    rounding: Rounding | None = None,
) -> StoredWeight:
    packed, scale, zero, _ = parts
    number, group, rows = layout
    form = WeightFormat(number, group, zero is None, _SCALE_NAMES[scale.meta["val"].dtype], rows)
    height, width = packed.meta["val"].shape
    name = str(packed.target).removesuffix(".packed")
    width = find_format(number).width(int(width))
    return StoredWeight(name, form, int(height), width, rounding, linear, embedding, name)


def _rounding(x: Any) -> Rounding | None:
    """How `dequantize(quantize…(x))` rounds."""
    if not isinstance(x, fx.Node) or x.target is not _DEQUANTIZE:
        return None
    values = normalized(x)[0][0]
    if values.target is _STATIC:
        _, scale, zero, kind = normalized(values)[0]
        if zero is not None:
            raise ExportRefused(
                f"the input of %{x.name} is rounded with a zero point, which no checkpoint format has",
                where=source_of(x),
                hint="quantize.static with `symmetric: true`, or quantize.calibrated, rounds without",
            )
        return Rounding(ActivationFormat(kind, static=True), str(scale.target))
    pair = values.args[0] if values.op == "call_function" and values.args else None
    if not isinstance(pair, fx.Node) or pair.target is not _DYNAMIC:
        return None
    _, kind, group, scale_type, whole = normalized(pair)[0]
    form = ActivationFormat(kind, group, scale_type)
    return Rounding(form, None if whole is None else str(whole.target))
