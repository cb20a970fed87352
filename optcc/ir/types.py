"""Types of values as text: `f32[1, T, 576]`, `(f32[T, 8], i8[T])`, `dim[T]`."""

from __future__ import annotations

import re

import torch

from optcc.errors import IRTextError
from optcc.ir.dims import Dim, Dims

Value = torch.Tensor | int | float | bool | torch.SymInt | tuple["Value", ...] | list["Value"] | None
"""What a node's `meta["val"]` holds: a fake tensor, a symbolic or plain number, or a tuple of them."""

DTYPE_NAMES: dict[torch.dtype, str] = {
    torch.float64: "f64",
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.float8_e4m3fn: "f8e4m3",
    torch.float8_e5m2: "f8e5m2",
    torch.float8_e8m0fnu: "f8e8m0",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "bool",
    torch.complex64: "c64",
}
DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}


def show_type(value: object, dims: Dims) -> str:
    """Text of a value's type."""
    if isinstance(value, torch.Tensor):
        return f"{DTYPE_NAMES[value.dtype]}[{', '.join(dims.show(d) for d in value.shape)}]"
    if isinstance(value, tuple | list):
        return f"({', '.join(show_type(v, dims) for v in value)})"
    if isinstance(value, torch.SymInt):
        return f"dim[{dims.show(value)}]"
    return type(value).__name__


def parse_type(text: str, dims: Dims) -> torch.Tensor:
    """The tensor type that `show_type` printed.

    Raises:
        IRTextError: `text` isn't a tensor type.
    """
    return dims.tensor(*parse_spec(text, dims))


def parse_spec(text: str, dims: Dims) -> tuple[torch.dtype, list[Dim]]:
    """Element type and shape of a tensor type. Raises as `parse_type`."""
    match = re.fullmatch(r"(\w+)\[(.*)\]", text.strip())
    if not match or match[1] not in DTYPES:
        raise IRTextError(f"`{text}` is not a tensor type")
    return DTYPES[match[1]], [dims.parse(d) for d in _split(match[2])]


def _split(text: str) -> list[str]:
    """Split at the commas outside parentheses."""
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    parts.append(text[start:])
    return [p for p in parts if p.strip()]
