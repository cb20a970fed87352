"""Modules of a few operators, compiled by a backend as a compile would, against the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from optcc.artifact.weights import TensorSource, write_safetensors
from optcc.backends.registry import load_backend
from optcc.ir import ops  # noqa: F401 - registers the operators
from optcc.ir.builder import Builder
from optcc.ir.interpret import interpret
from optcc.ir.module import Module
from optcc.ir.text import module_text
from optcc.ir.types import parse_type
from optcc.runtime.executor import CallExecutor

SIZES = (
    {"T": 1, "R": 1, "B": 1, "S": 1, "W": 1},
    {"T": 7, "R": 3, "B": 3, "S": 5, "W": 2},
    {"T": 33, "R": 5, "B": 2, "S": 12, "W": 9},
)
"""Every case runs at all of them: one of everything, odd ones, larger ones."""

Make = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """A small graph.

    Attributes:
        name: of the test.
        inputs: type of each input, as IR text has it.
        make: the results, from a Builder and the input nodes.
        high: integers of an input are drawn from 0 up to this.
        tolerance: largest error, relative to the largest expected value or 1.
    """

    name: str
    inputs: Mapping[str, str]
    make: Make
    high: Mapping[str, int] = field(default_factory=dict)
    tolerance: float = 2e-6


def module_of(case: Case) -> Module:
    """The case as a module with results y0, y1, …."""
    module = Module()
    graph = module.graphs["model"] = fx.Graph()
    nodes = []
    for name, kind in case.inputs.items():
        node = graph.placeholder(name)
        node.meta["val"] = parse_type(kind, module.dims)
        nodes.append(node)
    end = graph.output(())
    made = case.make(Builder(module, end), *nodes)
    results = made if isinstance(made, tuple) else (made,)
    end.args = (results,)
    end.meta.update(names=tuple(f"y{i}" for i in range(len(results))), val=None)
    return module


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
    """A module compiled and opened as a plain function on one thread."""
    build(module, backend, root)
    return load_backend(backend).open_function(root, {}, 1)


def draw_inputs(case: Case, module: Module, sizes: Mapping[str, int], seed: int) -> dict[str, Tensor]:
    """Random inputs at the given sizes of the named dims."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for node in module.inputs():
        fake = node.meta["val"]
        shape = [_extent(module, d, sizes) for d in fake.shape]
        if fake.dtype == torch.bool:
            drawn[node.name] = torch.rand(shape, generator=generator) > 0.4
        elif fake.dtype.is_floating_point:
            drawn[node.name] = torch.randn(shape, generator=generator).to(fake.dtype)
        else:
            low, high = (0, case.high[node.name]) if node.name in case.high else (-9, 10)
            drawn[node.name] = torch.randint(low, high, shape, generator=generator).to(fake.dtype)
    return drawn


def _extent(module: Module, dim: Any, sizes: Mapping[str, int]) -> int:
    if isinstance(dim, int):
        return dim
    name, _, more = module.dims.show(dim).partition(" + ")
    return sizes[name] + int(more or 0)


def expected(module: Module, inputs: Mapping[str, Tensor]) -> dict[str, npt.NDArray[Any]]:
    """The interpreter's results."""
    return {name: value.numpy() for name, value in interpret(module, inputs).items()}


def assert_close(found: Mapping[str, Any], wanted: Mapping[str, Any], tolerance: float) -> None:
    """Same names, types and shapes, and values within the tolerance; NaN and infinities in the same places."""
    assert set(found) == set(wanted)
    for name, want in wanted.items():
        have = found[name]
        assert (have.dtype, have.shape) == (want.dtype, want.shape), name
        if want.dtype == np.bool_ or not np.issubdtype(want.dtype, np.floating) or tolerance == 0:
            np.testing.assert_array_equal(have, want, name)
            continue
        finite = np.abs(want[np.isfinite(want)])
        scale = max(1.0, float(finite.max(initial=0.0)))
        np.testing.assert_allclose(have, want, rtol=0, atol=tolerance * scale, err_msg=name)
