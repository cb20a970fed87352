"""The ledger weight by weight: what each was to be stored as, what lies in the file, and how far its values moved.

Values are read back from the artifact's own file through the backend (`Backend.unpack`) and held against the weight as
it was before it was packed. Of a large weight some rows are compared, spread evenly over all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from optcc.backends.protocol import StoredTensor
from optcc.errors import ExportRefused, LedgerMismatch
from optcc.export.stored import StoredWeight, plain_weights, stored_weights
from optcc.ir.formats.scales import decode_scale
from optcc.ir.module import Module
from optcc.ir.ops.quantized import PARTS, dequantize
from optcc.ir.weights import WeightStore

_ELEMENTS = 1 << 18
"""Values of a weight that are compared."""
_ROWS = 16
"""Rows of it at least."""
_MOST_STEPS = 1.0
"""Root mean square error in steps of the grid: 0.29 by rounding to nearest, about 0.6 where an algorithm lets errors
make up for each other; values that belong to another scale or another weight are farther off."""
_MOST_RELATIVE = {"int8": 0.25, "e4m3": 0.25, "int4": 0.6, "e2m1": 0.6, "int3": 0.8, "ternary": 0.98}
"""Number format -> largest root mean square error as a share of the weight's own; 1 is a weight of zeros."""


@dataclass(frozen=True)
class Row:
    """One weight of the model.

    Attributes:
        name: as the model calls it.
        scheme: what it was to be stored as; `plain` when nothing was asked.
        shape: [O, K], or its own when it is plain.
        stored: number format and layout in the file, as `int4 g64 float32 scales`.
        tensors: of the file, by name and type, that it lies in; others may lie there too.
        bytes: of its values and scales in canonical form; padding is left out.
        error: root mean square error relative to the weight's own; None where there is nothing to compare with.
        sqnr: the same in dB, 20 log10(1 / error); None also where it is exact.
        steps: root mean square error in steps of the grid, of integer formats.
        rows: how many rows were compared.
        remark: why not, or what else to know.
    """

    name: str
    scheme: str
    shape: tuple[int, ...]
    stored: str
    tensors: tuple[str, ...]
    bytes: int
    error: float | None = None
    sqnr: float | None = None
    steps: float | None = None
    rows: int = 0
    remark: str = ""


def ledger_rows(
    module: Module,
    originals: WeightStore,
    intended: Mapping[str, str],
    files: Sequence[StoredTensor],
    moved: str = "",
) -> list[Row]:
    """A row for every weight, quantized ones first, in order of their names.

    Args:
        module: read back from the artifact.
        originals: the weights before they were packed.
        intended: weight -> scheme.
        files: the tensors of the weight file.
        moved: why the packed weights are other ones than the originals, if they are; their errors judge nothing then.

    Raises:
        LedgerMismatch: values that can't have come from the weight they stand for by this scheme.
    """
    places = {
        source: f"{t.name} {t.dtype}[{', '.join(map(str, t.shape))}]" for t in files for source in t.sources
    }
    try:
        quantized = stored_weights(module)
    except ExportRefused as error:
        return list(_unread(module, intended, places, error.what))
    rows = [_quantized(module, w, originals, intended, places, moved) for w in quantized]
    _judge(rows, {w.name: w.form.type for w in quantized})
    parts = {f"{w.held}.{part}" for w in quantized for part in PARTS}
    return rows + [
        _plain(module, name, held, piece, originals, places)
        for name, (held, piece) in sorted(plain_weights(module).items())
        if held not in parts
    ]


def _quantized(
    module: Module,
    weight: StoredWeight,
    originals: WeightStore,
    intended: Mapping[str, str],
    places: Mapping[str, str],
    moved: str,
) -> Row:
    form = weight.form
    held = [f"{weight.held}.{part}" for part in PARTS if f"{weight.held}.{part}" in module.weights]
    words = [form.type, f"g{form.group}" if form.group else "channel", f"{form.scale} scales"]
    words += [] if form.symmetric else ["zero points"]
    row = Row(
        weight.name,
        intended.get(weight.name, str(_known(module).get(weight.name, ""))),
        (weight.rows, weight.width),
        " ".join(words),
        tuple(dict.fromkeys(places[name] for name in held if name in places)),
        sum(form.bytes(weight.rows, weight.width)),
    )
    before = _original(originals, weight.name, row.shape)
    if before is None or moved:
        return replace(
            row, remark=moved or "the checkpoint has it in this form, there is nothing to compare with"
        )
    chosen = _sample(weight.rows, weight.width)
    values, step = _values(module, weight, chosen)
    return _compared(row, before[chosen].to(torch.float32), values, step)


def _values(module: Module, weight: StoredWeight, chosen: Tensor) -> tuple[Tensor, Tensor | None]:
    """Some rows of a packed weight as they lie in the file, float32 [n, K], and the steps of their grids."""
    form = weight.form
    block = torch.div(chosen, form.rows or weight.rows, rounding_mode="floor")
    packed, scale, zero, whole = (weight.part(module, part) for part in PARTS)
    assert packed is not None
    assert scale is not None
    scales = _rows(scale, block)
    zeros = None if zero is None else _rows(zero, block)
    values = dequantize(_rows(packed, chosen), scales, zeros, whole, form.type, form.group, 1, torch.float32)
    if not form.type.startswith("int"):
        return values, None
    steps = decode_scale(scales, whole).abs()
    return values, steps.repeat_interleave(weight.width // steps.shape[-1], -1)


def _rows(packed: Tensor, chosen: Tensor) -> Tensor:
    """Rows of a tensor of any type; types of one byte that torch can't index are seen as bytes."""
    return packed.view(torch.uint8)[chosen].view(packed.dtype) if packed.itemsize == 1 else packed[chosen]


def _compared(row: Row, before: Tensor, after: Tensor, step: Tensor | None) -> Row:
    off = (after - before).double()
    power, noise = float(before.double().square().mean()), float(off.square().mean())
    error = math.sqrt(noise / power) if power > 0 else math.inf if noise > 0 else 0.0
    steps = None
    if step is not None:
        live = step > 0
        steps = (
            math.sqrt(float((off[live] / step[live].double()).square().mean())) if bool(live.any()) else 0.0
        )
    sqnr = -20 * math.log10(error) if 0 < error < math.inf else None
    part = "" if len(before) == row.shape[0] else f"{len(before)} of {row.shape[0]} rows compared"
    return replace(row, error=error, sqnr=sqnr, steps=steps, rows=len(before), remark=part)


def _judge(rows: Sequence[Row], kinds: Mapping[str, str]) -> None:
    """Raise LedgerMismatch for weights whose values can't be what their scheme makes of the original."""
    wrong = [
        row
        for row in rows
        if row.error is not None
        and not (row.error <= _MOST_RELATIVE[kinds[row.name]] and (row.steps or 0.0) <= _MOST_STEPS)
    ]
    if wrong:
        worst = max(wrong, key=lambda row: row.error or 0.0)
        raise LedgerMismatch(
            f"{len(wrong)} weights hold other values than {worst.scheme or worst.stored} makes of the original's: "
            f"{worst.name} is off by {worst.error:.0%} of its size"
            + (f", {worst.steps:.1f} steps" if worst.steps is not None else ""),
            where="weights.safetensors",
            hint="a pass packed another weight, or with other scales than it stored",
        )


def _plain(
    module: Module,
    name: str,
    held: str,
    piece: slice | None,
    originals: WeightStore,
    places: Mapping[str, str],
) -> Row:
    dtype, whole = module.weights.spec(held)
    shape = whole if piece is None else (piece.stop - piece.start, *whole[1:])
    size = dtype.itemsize * math.prod(shape)
    kind = str(dtype).removeprefix("torch.")
    row = Row(name, "plain", shape, kind, (places[held],) if held in places else (), size)
    before = _original(originals, name, shape)
    if before is None or not shape or not dtype.is_floating_point:
        return row
    chosen = _sample(shape[0], math.prod(shape[1:]))
    values = module.weights[held] if piece is None else module.weights[held][piece]
    return _compared(row, before[chosen].to(torch.float32), values[chosen].to(torch.float32), None)


def _unread(
    module: Module, intended: Mapping[str, str], places: Mapping[str, str], why: str
) -> Iterator[Row]:
    """Rows of a module whose operators only its backend understands: stored bytes alone."""
    for held in sorted(module.weights):
        dtype, shape = module.weights.spec(held)
        kind = str(dtype).removeprefix("torch.")
        scheme = intended.get(held.rpartition(".")[0], "plain")
        place = (places[held],) if held in places else ()
        yield Row(held, scheme, shape, kind, place, module.weights.nbytes(held), remark=why)


def _original(originals: WeightStore, name: str, shape: tuple[int, ...]) -> Tensor | None:
    """The weight before it was packed, mapped, as a matrix; None where there is none of this size."""
    if name not in originals or math.prod(originals.spec(name)[1]) != math.prod(shape):
        return None
    if not originals.refs[name].path.exists():
        return None
    return originals[name].reshape(shape)


def _sample(rows: int, width: int) -> Tensor:
    """Numbers of rows, evenly spread."""
    count = min(rows, max(_ROWS, _ELEMENTS // max(width, 1)))
    return torch.linspace(0, rows - 1, count, dtype=torch.float64).round().to(torch.int64)


def _known(module: Module) -> Mapping[str, object]:
    schemes = module.attrs.get("schemes")
    return schemes if isinstance(schemes, dict) else {}
