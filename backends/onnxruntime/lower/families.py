"""Imports every family, which registers its lowerings."""

from optcc.backends.onnxruntime.lower import (
    attention,
    binary,
    compare,
    convolution,
    create,
    dims,
    index,
    linear,
    norm,
    quantized,
    reduce,
    rope,
    shape,
    unary,
)

__all__ = [
    "attention",
    "binary",
    "compare",
    "convolution",
    "create",
    "dims",
    "index",
    "linear",
    "norm",
    "quantized",
    "reduce",
    "rope",
    "shape",
    "unary",
]
