"""What a compile will make, from types alone: the passes run over weights of which only shapes are known.

Passes that pack weights are stood in for by what their schemes say; all others run as they are. So the file that will
be written is known to the byte before a weight is read, and a pass that will fail fails here.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from optcc.artifact.weights import TensorSource, layout
from optcc.backends.protocol import Backend
from optcc.errors import OptccError, PassFailed
from optcc.ir.formats import SCALES, find_format
from optcc.ir.infer import Inference
from optcc.ir.module import Module
from optcc.ir.text import module_text
from optcc.ir.weights import WeightStore
from optcc.pm.context import Context
from optcc.pm.passes import Pass
from optcc.pm.run import run_pass
from optcc.quant.attach import attach_activations, attach_weight
from optcc.quant.rounding import PackedWeight, group_count
from optcc.quant.select import Selected
from optcc.quant.weight_pass import PackingPass
from optcc.recipe.schemes import Scheme, WeightFormat

_LINEAR = torch.ops.aten.linear.default


@dataclass(frozen=True)
class Sketch:
    """A compile's result without its numbers.

    Attributes:
        module: the final one; no matrix of it can be read.
        weights_bytes: of the weight file, header included.
        graph_bytes: of the backend's files and the module's text.
        stored: bytes of every tensor in the weight file, by name.
        written: bytes that passes leave in the cache on the way.
        left_out: passes of others that read weights; what they do isn't in here.
    """

    module: Module
    weights_bytes: int
    graph_bytes: int
    stored: dict[str, int]
    written: int
    left_out: tuple[str, ...]


class Unforeseen(Exception):
    """What follows a pass that reads weights depends on what it does with them."""

    def __init__(self, left_out: Sequence[str]) -> None:
        super().__init__(", ".join(left_out))
        self.left_out = tuple(left_out)


def sketch(module: Module, steps: Sequence[Pass], backend: Backend, base: Path) -> Sketch:
    """Run what is left of a pipeline over weights that can't be read.

    Args:
        module: after the passes before `steps`; not changed.
        steps: the others, in order.
        backend: what will store the result.
        base: directory of the recipe.

    Raises:
        OptccError: what a pass or the backend would raise.
        Unforeseen: the same, but only since a pass was left out.
    """
    left_out: list[str] = []
    try:
        return _sketch(module, steps, backend, base, left_out)
    except Exception as error:
        if left_out:
            raise Unforeseen(left_out) from error
        raise


def _sketch(
    module: Module, steps: Sequence[Pass], backend: Backend, base: Path, left_out: list[str]
) -> Sketch:
    found = _unread_copy(module, module.weights.unread())
    ctx = Context(backend.name, base=base)
    aside: list[tuple[str, PackedWeight]] = []
    written = 0
    for step in steps:
        before = set(found.weights)
        if isinstance(step, PackingPass):
            aside += _pack(found, step, base)
        elif not step.calibrates:
            found = _run(found, step, ctx, left_out)
        written += sum(found.weights.nbytes(name) for name in set(found.weights) - before)
    for name, packed in aside:
        if name in found.weights:
            found.weights.remove(name)
        for part, tensor in packed.tensors().items():
            found.weights.put(f"{name}.{part}", tensor)
    planned = backend.plan_weights(found)
    _, header, spans = layout([TensorSource(t.name, t.dtype, t.shape, t.read) for t in planned])
    stored = {name: span.nbytes for name, span in spans.items()}
    # Operators whose weights were packed aside still name the weights that they had.
    named = {name: spans[f"{name}.{part}"] for name, packed in aside for part in list(packed.tensors())[:1]}
    graphs = backend.graph_bytes(found, {**named, **spans}) + len(module_text(found).encode())
    return Sketch(found, len(header) + sum(stored.values()), graphs, stored, written, tuple(left_out))


def _unread_copy(module: Module, weights: WeightStore) -> Module:
    found = module.clone()
    found.attrs = copy.deepcopy(module.attrs)
    found.weights = weights
    found.inference = Inference(found.dims, weights)
    return found


def _run(module: Module, step: Pass, ctx: Context, left_out: list[str]) -> Module:
    """The module after a pass; as it was, where somebody else's pass can't do without the weights' values."""
    if type(step).__module__.startswith("optcc."):
        run_pass(module, step, ctx, [])
        return module
    tried = _unread_copy(module, module.weights.clone())
    try:
        run_pass(tried, step, ctx, [])
    except PassFailed as error:
        if isinstance(error.__cause__, OptccError):
            raise
        left_out.append(str(step))
        return module
    return tried


def _pack(module: Module, step: PackingPass, base: Path) -> list[tuple[str, PackedWeight]]:
    """What a pass will pack, attached; and the weights of operators that only the pass itself can rewrite.

    Where it decides between schemes, the largest stands for all.
    """
    aside = []
    schemes = list(step.schemes(base).values())
    for item in step.select(module, base):
        scheme = max(schemes, key=lambda s: sum(s.weight.bytes(*item.shape)))
        packed = _unread(item, scheme.weight)
        if all(node.target is _LINEAR for node in item.linears):
            _attach(module, item, packed, scheme)
            step.note_schemes(module, [item], scheme)
        else:
            aside.append((item.name, packed))
    return aside


def _attach(module: Module, item: Selected, packed: PackedWeight, scheme: Scheme) -> None:
    if scheme.activation and not scheme.activation.static:
        attach_activations(module, list(item.linears), scheme.activation)
    attach_weight(module, item, packed, scheme.weight)


def _unread(item: Selected, form: WeightFormat) -> PackedWeight:
    """A packed weight of the right types and shapes."""
    rows, width = item.shape
    blocks = -(-rows // form.rows) if form.rows else 1
    shape = (blocks, group_count(width, form))
    number = find_format(form.type)
    return PackedWeight(
        torch.empty(rows, number.packed_width(width), dtype=number.storage, device="meta"),
        torch.empty(shape, dtype=SCALES[form.scale].dtype, device="meta"),
        None if form.symmetric else torch.empty(shape, dtype=torch.int8, device="meta"),
        torch.ones(1) if form.two_level else None,
    )
