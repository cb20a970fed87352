"""One module as IR text, compiled by a backend as a compile would, against the interpreter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from optcc.artifact.weights import TensorSource, write_safetensors
from optcc.backends.registry import load_backend
from optcc.ir import ops  # noqa: F401 - registers the operators the text names
from optcc.ir.interpret import interpret
from optcc.ir.module import Module
from optcc.ir.parse import parse_module
from optcc.ir.text import module_text
from optcc.runtime.executor import CallExecutor

SIZES = ({"T": 1, "R": 1, "B": 1, "S": 1}, {"T": 7, "R": 3, "B": 3, "S": 5}, {"T": 64, "R": 5, "B": 2, "S": 33})
"""Sizes every case runs at: one of everything, odd ones, larger ones."""


def module_of(text: str, seed: int = 0) -> Module:
    """The module of a text with random weights: normal floats, any small integer."""
    module = parse_module(text)
    generator = torch.Generator().manual_seed(seed)
    for name in list(module.weights):
        dtype, shape = module.weights.spec(name)
        module.weights.put(name, draw(dtype, shape, generator, positive="scale" in name or "var" in name))
    return module


def draw(
    dtype: torch.dtype, shape: tuple[int, ...], generator: torch.Generator, high: int = 0, positive: bool = False
) -> torch.Tensor:
    """A random tensor; integers from 0 up to `high`, or over the whole range of 8 bits."""
    if dtype == torch.bool:
        return torch.rand(shape, generator=generator) > 0.4
    if dtype.is_floating_point:
        values = torch.randn(shape, generator=generator)
        return (values.abs() * 0.02 + 0.01 if positive else values).to(dtype)
    low, top = (0, high) if high else ((-127, 128) if dtype == torch.int8 else (0, 256))
    return torch.randint(low, top, shape, generator=generator).to(dtype)


def build(module: Module, backend: str, root: Path) -> None:
    """Write what a backend makes of a module, as the compile flow does."""
    made = load_backend(backend)
    refused = {reason for n in module.nodes() if (reason := made.supports(n, module))}
    assert not refused, refused
    root.mkdir(parents=True, exist_ok=True)
    stored = [TensorSource(t.name, t.dtype, t.shape, t.read) for t in made.plan_weights(module)]
    spans = write_safetensors(root / "weights.safetensors", stored)
    made.compile(module, root, spans)
    (root / "model.ir").write_text(module_text(module))


def open_function(module: Module, backend: str, root: Path) -> CallExecutor:
    """A module compiled and opened as a plain function."""
    build(module, backend, root)
    return load_backend(backend).open_function(root, {}, 1)


def expected(module: Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """The interpreter's results; inputs that are written to are copied."""
    return {n: v.numpy() for n, v in interpret(module, {k: v.clone() for k, v in inputs.items()}).items()}


def shape_at(module: Module, node_name: str, sizes: Mapping[str, int]) -> tuple[torch.dtype, tuple[int, ...]]:
    """Type and concrete shape of an input at given sizes of the named dims."""
    fake = next(n.meta["val"] for n in module.inputs() if n.name == node_name)
    env = {"__builtins__": {}}
    return fake.dtype, tuple(
        d if isinstance(d, int) else int(eval(module.dims.show(d), env, dict(sizes))) for d in fake.shape
    )
