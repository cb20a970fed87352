"""Inputs of a function from a file of arrays, for `calibrate.data` and `check.data`."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from optcc.errors import BadCheckData, nearest

Array = npt.NDArray[Any]
_BATCH = 32


def read_arrays(path: Path, io: Mapping[str, Any]) -> list[dict[str, Array]]:
    """Batches of a `.npz` file: one array per input, of equal length, cut along the first axis.

    Args:
        path: written by `numpy.savez`; pickled objects are refused.
        io: the function's inputs by name, with `type` such as `f32[B, 3, 32, 32]` and `dtype`.

    Returns:
        Batches of 32, or of the size that an input's first axis is fixed to; rows that fill no batch are left out then.

    Raises:
        BadCheckData: the file can't be read, or doesn't fit the inputs.
    """
    inputs: Mapping[str, Mapping[str, str]] = io["inputs"]
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BadCheckData(f"the arrays can't be read ({error})", where=str(path)) from error
    for name, kind in inputs.items():
        if name not in arrays:
            raise BadCheckData(
                f"there is no array {name!r}", where=str(path), hint=nearest(name, list(arrays))
            )
        if str(arrays[name].dtype) != kind["dtype"] or not _fits(arrays[name].shape[1:], _axes(kind)[1:]):
            raise BadCheckData(
                f"{name} is {arrays[name].dtype} {arrays[name].shape}, the input is {kind['type']}",
                where=str(path),
            )
    lengths = {len(arrays[name]) for name in inputs}
    if len(lengths) != 1:
        raise BadCheckData(f"arrays of different lengths: {sorted(lengths)}", where=str(path))
    fixed = {int(axis) for kind in inputs.values() if (axis := _axes(kind)[0]).isdigit()}
    size, rows = min(fixed, default=_BATCH), lengths.pop()
    starts = range(0, rows - size + 1 if fixed else rows, size)
    batches = [{name: arrays[name][first : first + size] for name in inputs} for first in starts]
    if not batches:
        raise BadCheckData(f"{rows} rows are less than a batch of {size}", where=str(path))
    return batches


def _axes(kind: Mapping[str, str]) -> list[str]:
    return [axis.strip() for axis in kind["type"].partition("[")[2].rstrip("]").split(",")]


def _fits(shape: tuple[int, ...], axes: list[str]) -> bool:
    return len(shape) == len(axes) and all(
        not axis.isdigit() or int(axis) == extent for extent, axis in zip(shape, axes, strict=True)
    )


def arrays_digest(batches: Sequence[Mapping[str, Array]]) -> str:
    """SHA-256 over names, types, shapes and contents of the arguments of several calls."""
    hasher = hashlib.sha256()
    for batch in batches:
        for name, value in sorted(batch.items()):
            hasher.update(f"{name} {value.dtype} {value.shape} ".encode() + value.tobytes())
    return hasher.hexdigest()
