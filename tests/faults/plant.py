"""Ways to put a fault into a compile. Everything is undone when the compile is over."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from optcc.backends.onnxruntime.executor import OnnxExecutor
from optcc.backends.onnxruntime.lower import registry
from optcc.backends.onnxruntime.separate import separate
from optcc.compile import prediction
from optcc.ir.module import Module
from optcc.pm.context import Context
from optcc.pm.discover import load_pass
from optcc.quant.rounding import PackedWeight
from optcc.quant.select import Selected
from optcc.recipe.schemes import WeightFormat
from optcc.runtime.executor import Batch

EditModule = Callable[[Module], None]
EditPacked = Callable[[PackedWeight, Tensor, WeightFormat, Selected], PackedWeight]


class Planting:
    """Where faults go: passes, quantizers, lowerings, the graph that was written, the executor.

    `broken` is set when a fault could not be planted: then nothing was caught.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch
        self.sketching = False
        self.broken: Exception | None = None
        sketch = prediction.sketch

        def sketched(*args: Any) -> Any:
            self.sketching = True
            try:
                return sketch(*args)
            finally:
                self.sketching = False

        # What only predicts sizes is left alone: a fault that crashes there would tell nothing.
        patch.setattr(prediction, "sketch", sketched)

    def after(self, name: str, edit: EditModule) -> None:
        """A pass that does its work and then something wrong.

        The first time that it runs in the compile: a pass may stand in a pipeline twice.
        """
        made = load_pass(name)
        before = made.run
        done: list[bool] = []
        planting = self

        def run(self: Any, module: Module, ctx: Context) -> bool:
            changed = bool(before(self, module, ctx))
            if done or planting.sketching:
                return changed
            try:
                edit(module)
                module.tidy()
            except Exception as error:
                planting.broken = error
                raise
            done.append(True)
            return True

        self.patch.setattr(made, "run", run)

    def replaced(self, target: str, value: object) -> None:
        """Any function of optcc, by dotted name."""
        self.patch.setattr(target, value)

    def wrapped(self, target: str, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Any function of optcc, by dotted name, with a mistake around it."""
        module, _, name = target.rpartition(".")
        self.patch.setattr(target, around(getattr(_imported(module), name)))

    def packed(self, edit: EditPacked) -> None:
        """A quantizer that stores something else than it should; `edit` sees the original too."""
        from optcc.passes.quantize import gptq, linear

        for where in (linear, gptq):
            attach = where.attach_weight

            def wrong(
                module: Module,
                selected: Selected,
                packed: PackedWeight,
                form: WeightFormat,
                attach: Callable[..., None] = attach,
            ) -> None:
                attach(module, selected, edit(packed, module.weights[selected.name], form, selected), form)

            self.patch.setattr(where, "attach_weight", wrong)

    def lowering(self, name: str, change: Callable[[fx.Node, list[Any]], list[Any]]) -> None:
        """A lowering that is given other operands than the node has."""
        import optcc.backends.onnxruntime.lower.families  # noqa: F401 - fills the table

        rule = registry.RULES[name]

        def lower(emit: Any, node: fx.Node, operands: list[Any]) -> Any:
            return rule.lower(emit, node, change(node, list(operands)))

        self.patch.setitem(registry.RULES, name, dataclasses.replace(rule, lower=lower))

    def graph(self, edit: Callable[[Any], None]) -> None:
        """An ONNX graph that is not what was lowered; `edit` gets the onnx.ModelProto, all linears apart."""
        import onnx

        from optcc.backends.onnxruntime.lower import graph

        lower = graph.lower

        def wrong(module: Module, spans: Any) -> bytes:
            model = onnx.load_from_string(lower(module, spans))
            separate(model)
            try:
                edit(model)
            except Exception as error:
                self.broken = error
                raise
            data: bytes = model.SerializeToString()
            return data

        self.patch.setattr(graph, "lower", wrong)

    def batch(self, change: Callable[[OnnxExecutor, Batch], Batch]) -> None:
        """A kernel or an executor that reads the step's arrays wrongly."""
        step = OnnxExecutor.step

        def wrong(self: OnnxExecutor, batch: Batch) -> Any:
            return step(self, change(self, batch))

        self.patch.setattr(OnnxExecutor, "step", wrong)

    def logits(self, change: Callable[[Any, Batch], Any]) -> None:
        """A kernel that writes wrong logits: f32[W, V] of a step to f32[W, V]."""
        step = OnnxExecutor.step

        def wrong(self: OnnxExecutor, batch: Batch) -> Any:
            return change(step(self, batch), batch)

        self.patch.setattr(OnnxExecutor, "step", wrong)

    def written(self, edit: Callable[[Path], None]) -> None:
        """Files of the artifact that are wrong, with right hashes: changed before they are sealed."""
        from optcc.artifact import ArtifactWriter

        seal = ArtifactWriter.seal

        def wrong(self: ArtifactWriter, manifest: Any) -> Any:
            edit(self.root)
            return seal(self, manifest)

        self.patch.setattr(ArtifactWriter, "seal", wrong)


def _imported(name: str) -> Any:
    """A module or a class by dotted name."""
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return getattr(_imported(module), attribute)


def nth(items: list[fx.Node], index: int) -> fx.Node:
    """The node of one layer; there must be one."""
    assert items, "the fault has nothing to strike"
    return items[min(index, len(items) - 1)]


def ops(module: Module, *names: str) -> list[fx.Node]:
    """Nodes by the operator's name, such as `optcc.rope.default`."""
    from optcc.ir.text import target_name

    return [n for n in module.nodes() if n.op == "call_function" and target_name(n) in names]


def set_operand(node: fx.Node, name: str, value: object) -> None:
    """Give an operand of a node another value."""
    from optcc.ir.pattern import normalized

    values, names, _ = normalized(node)
    values[names.index(name)] = value
    node.args, node.kwargs = tuple(values), {}


def change_weight(module: Module, name: str, change: Callable[[Tensor], Tensor]) -> None:
    """Store another value under a weight's name."""
    value = change(module.weights[name].clone())
    module.weights.put(name, value.contiguous())
    module.attrs["touched"] = [*module.attrs.get("touched", []), name]  # type: ignore[misc]


def spread(tensor: Tensor) -> float:
    """Standard deviation, for faults that are as large as the values."""
    return float(tensor.to(torch.float32).std())
