"""Imports every family, which registers its lowerings."""

from optcc.backends.onnxruntime.lower import (
    activation,
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
    static,
    unary,
)

__all__ = [
    "activation",
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
    "static",
    "unary",
]
