"""An artifact's program over its own stored weights, or over the original's with nothing rounded; interpreted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from optcc.backends.reference.executor import ReferenceExecutor
from optcc.export.stored import StoredWeight
from optcc.ir.module import Module
from optcc.ir.ops.quantized import PARTS, dequantized_rows, linear_by_rows
from optcc.ir.pattern import normalized
from optcc.runtime.executor import Executor

_OPS = torch.ops.optcc
_PIECE = 1 << 21
"""Values of an original's weight that are widened at a time."""


class OriginalWeights:
    """The float weights that quantized ones stand for, by the name that the artifact holds them under.

    Args:
        model: the original, whose parameters have the names that `StoredWeight.name` gives.
        stored: every quantized weight.
    """

    def __init__(self, model: nn.Module, stored: list[StoredWeight]) -> None:
        self._parameters = dict(model.named_parameters(remove_duplicate=False))
        self._pieces: dict[str, list[StoredWeight]] = {}
        for weight in sorted(stored, key=lambda w: w.first):
            self._pieces.setdefault(weight.held, []).append(weight)

    def missing(self) -> list[str]:
        """Names of quantized weights that the original has no parameter of this shape for."""
        return [w.name for ws in self._pieces.values() for w in ws if self.find(w) is None]

    def named(self, name: str) -> Tensor | None:
        """A parameter by its own name."""
        return self._parameters.get(name)

    def find(self, weight: StoredWeight) -> Tensor | None:
        """The original of one weight, [O, K] as linears read it; None if there is none of this name and shape."""
        name = weight.name.removesuffix(".transposed")  # GPT-2 stores [K, O]
        found = self._parameters.get(name)
        if found is None or found.ndim != 2:
            return None
        value = found.detach() if name == weight.name else found.detach().T
        return value if tuple(value.shape) == (weight.rows, weight.width) else None

    def read(self, held: str) -> Iterator[Tensor]:
        """All rows of a weight as the artifact holds it, stacked ones one after the other; float32."""
        for weight in self._pieces[held]:
            if (found := self.find(weight)) is not None:
                for rows in found.split(max(1, _PIECE // weight.width)):
                    yield rows.float()


def interpreted(module: Module, spec: Mapping[str, Any], *, rounding: bool = True) -> Executor:
    """The program over its own weights; without `rounding`, activations stay as they are."""
    if rounding:
        return ReferenceExecutor(module, spec)
    return ReferenceExecutor(module, spec, calls=_unrounded(module, _own(module)), plain=True)


def unrounded(module: Module, spec: Mapping[str, Any], weights: OriginalWeights) -> Executor:
    """The program with the original's weights in place of quantized ones; activations, keys and values unrounded.

    What is left is its structure, and the weights that were never quantized.
    """
    calls = {**_unrounded(module, weights.read), **_tables(module, weights.read)}
    return ReferenceExecutor(module, spec, calls=calls, plain=True)


Read = Callable[[str], Iterator[Tensor]]
"""Name of a quantized weight, as it is held, to its values [O, K], some rows after the others."""


def _own(module: Module) -> Read:
    """The stored values."""
    layouts = {
        _held(node.args[1]): normalized(node)[0][6:9] for node in module.find(_OPS.quantized_linear.default)
    }

    def read(held: str) -> Iterator[Tensor]:
        packed, scale, zero, tensor_scale = (
            module.weights[n] if (n := f"{held}.{part}") in module.weights else None for part in PARTS
        )
        assert packed is not None
        assert scale is not None
        format, group, rows = layouts[held]
        return dequantized_rows(packed, scale, zero, tensor_scale, format, group, rows, torch.float32)

    return read


def _unrounded(module: Module, read: Read) -> dict[fx.Node, Callable[..., Any]]:
    """What stands in for every operator that rounds something computed."""
    calls: dict[fx.Node, Callable[..., Any]] = {}
    for node in module.nodes():
        if node.target is _OPS.quantized_linear.default:
            calls[node] = partial(_linear, partial(read, _held(node.args[1])))
        elif node.target is _OPS.dequantize.default and not _is_table(node):
            calls[node] = _first
        elif node.target is _OPS.quantize_activation.default:
            calls[node] = _with_ones
        elif node.target is _OPS.quantize_static.default:
            calls[node] = _first
    return calls


def _tables(module: Module, read: Read) -> dict[fx.Node, Callable[..., Any]]:
    """What stands in for every other operator that reads a quantized weight."""
    calls: dict[fx.Node, Callable[..., Any]] = {}
    for node in module.nodes():
        if node.target is _OPS.quantized_embedding.default:
            calls[node] = partial(_embedding, partial(read, _held(node.args[1])))
        elif node.target is _OPS.dequantize.default and _is_table(node):
            calls[node] = partial(_weight, partial(read, _held(node.args[0])))
    return calls


def _is_table(node: fx.Node) -> bool:
    """Whether a dequantize reads a stored weight."""
    return isinstance(node.args[0], fx.Node) and node.args[0].op == "get_attr"


def _held(packed: Any) -> str:
    return str(packed.target).removesuffix(".packed")


def _linear(read: Callable[[], Iterator[Tensor]], x: Tensor, *rest: Any) -> Tensor:
    return linear_by_rows(x, read(), rest[4])


def _embedding(read: Callable[[], Iterator[Tensor]], ids: Tensor, *rest: Any) -> Tensor:
    found, first = torch.empty(0), 0
    for rows in read():
        if not first:
            found = rows.new_empty((*ids.shape, rows.shape[1]))
        here = (ids >= first) & (ids < first + len(rows))
        found[here] = rows[ids[here] - first]
        first += len(rows)
    return found.to(rest[-1])


def _weight(read: Callable[[], Iterator[Tensor]], *rest: Any) -> Tensor:
    return torch.cat(list(read())).to(rest[-1])


def _first(x: Tensor, *_: Any) -> Tensor:
    return x


def _with_ones(x: Tensor, form: str, group: int, *_: Any) -> tuple[Tensor, Tensor]:
    return x, x.new_ones((*x.shape[:-1], x.shape[-1] // (group or x.shape[-1])))
