"""Weights of two artifacts: which were added, removed or stored in another form, and how far their values are apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from optcc.artifact import Artifact

if TYPE_CHECKING:
    from optcc.ir.module import Module

_SLICE = 1 << 22
"""Values that are compared at a time, so that memory stays near one weight."""


@dataclass(frozen=True)
class TensorChange:
    """One tensor that differs.

    Attributes:
        name: of the stored tensor; with values, of the weight in the original model.
        left, right: its form on each side; None where it isn't there.
        left_bytes, right_bytes: what it takes.
        max_abs: largest difference of two values; None when not measured or not of one shape.
        relative_rms: root mean square of the differences, divided by that of left's values.
    """

    name: str
    left: str | None
    right: str | None
    left_bytes: int
    right_bytes: int
    max_abs: float | None = None
    relative_rms: float | None = None


@dataclass(frozen=True)
class _Weight:
    """A weight that can be read: its form, its bytes, and its values as f32[O, K]."""

    form: str
    nbytes: int
    read: Callable[[], npt.NDArray[Any]]


def tensor_changes(left: Artifact, right: Artifact, *, values: bool) -> Iterator[TensorChange]:
    """The tensors that differ, in the order of `left`, then those that only `right` has.

    Without `values` the headers of both weight files are compared and no tensor is read. With `values` every weight of
    the original is dequantized on both sides, one at a time, from the mapped files.
    """
    if values:
        yield from _values(_weights(left), _weights(right))
        return
    a, b = (
        {n: (f"{i.dtype}{list(i.shape)}", i.nbytes) for n, i in x.weights().tensors.items()}
        for x in (left, right)
    )
    for name in dict.fromkeys([*a, *b]):
        ours, theirs = a.get(name, (None, 0)), b.get(name, (None, 0))
        if ours != theirs:
            yield TensorChange(name, ours[0], theirs[0], ours[1], theirs[1])


def _values(a: Mapping[str, _Weight], b: Mapping[str, _Weight]) -> Iterator[TensorChange]:
    for name in dict.fromkeys([*a, *b]):
        ours, theirs = a.get(name), b.get(name)
        if ours is None or theirs is None:
            yield TensorChange(
                name,
                ours.form if ours else None,
                theirs.form if theirs else None,
                ours.nbytes if ours else 0,
                theirs.nbytes if theirs else 0,
            )
            continue
        most, rms = distance(ours.read(), theirs.read())
        if most != 0 or (ours.form, ours.nbytes) != (theirs.form, theirs.nbytes):
            yield TensorChange(name, ours.form, theirs.form, ours.nbytes, theirs.nbytes, most, rms)


def distance(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> tuple[float | None, float | None]:
    """Largest absolute difference and relative root mean square; None for other shapes, NaN where a side has NaN."""
    if left.shape != right.shape:
        return None, None
    a, b = left.reshape(-1), right.reshape(-1)
    most, error, signal = 0.0, 0.0, 0.0
    for first in range(0, a.size, _SLICE):
        x, y = (part[first : first + _SLICE].astype(np.float64) for part in (a, b))
        gap = y - x
        most = float(np.maximum(most, np.abs(gap).max(initial=0.0)))
        error, signal = error + float(gap @ gap), signal + float(x @ x)
    return most, (error / signal) ** 0.5 if signal else (0.0 if error == 0 else float("inf"))


def _weights(artifact: Artifact) -> dict[str, _Weight]:
    """Every weight of the original model that the artifact holds, by its own name."""
    from optcc.backends.registry import load_backend
    from optcc.export.stored import plain_weights, stored_weights

    module = load_backend(str(artifact.manifest.target["backend"])).unpack(artifact.root)
    found = {
        w.name: _Weight(
            w.label(module),
            sum(p.nbytes for part in ("packed", "scale", "zero") if (p := w.part(module, part)) is not None),
            lambda w=w: w.dequantized(module).numpy(),  # type: ignore[misc]
        )
        for w in stored_weights(module)
    }
    packed = {name for name in module.weights if _is_part(module, name)}
    for name, (held, rows) in plain_weights(module).items():
        if held not in packed:
            found[name] = _plain(module, held, rows)
    return found


def _is_part(module: Module, name: str) -> bool:
    """Whether a tensor is a part of a quantized weight."""
    stem, _, part = name.rpartition(".")
    return part in ("packed", "scale", "zero", "tensor_scale") and f"{stem}.packed" in module.weights


def _plain(module: Module, held: str, rows: slice | None) -> _Weight:
    tensor = module.weights[held] if rows is None else module.weights[held][rows]
    return _Weight(str(tensor.dtype).removeprefix("torch."), tensor.nbytes, lambda: tensor.float().numpy())
