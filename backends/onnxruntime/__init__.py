"""The ONNX Runtime backend: fx straight to one ONNX graph over the artifact's weight file, run on the CPU."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optcc.artifact.weights import Span
from optcc.backends.onnxruntime import native
from optcc.backends.onnxruntime.session import MODEL, OLDEST, availability, try_open
from optcc.backends.protocol import Availability, Backend, KernelUse, StepProfile, StoredTensor
from optcc.errors import BackendCompileFailed
from optcc.files import writing
from optcc.runtime.executor import Batch, CallExecutor, Executor

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch
    from torch import fx

    from optcc.ir.module import Module


class OnnxRuntime:
    """Lowers through `lower/`, one file per family of operators, and runs what it wrote."""

    name = "onnxruntime"

    def probe(self) -> Availability:
        """Needs onnxruntime to run, onnx and onnx-ir to compile; native operators make it faster."""
        return replace(availability(), notes=(f"native operators: {native.status()}",))

    def supports(self, node: fx.Node, module: Module) -> str | None:
        """From the operator, its constants and its types; no weight is read."""
        from optcc.backends.onnxruntime.supports import refusal

        return refusal(node)

    def pipeline(self) -> str:
        """Nothing beyond the recipe's own passes."""
        return ""

    def plan_weights(self, module: Module) -> Sequence[StoredTensor]:
        """Every weight once, those of block kernels as these read them."""
        from optcc.backends.onnxruntime.weights import plan

        return plan(module)

    def compile(self, module: Module, root: Path, spans: Mapping[str, Span]) -> Mapping[str, str]:
        """Write `model.onnx` and see that ONNX Runtime takes it.

        Raises:
            UnsupportedOp: an operator has no lowering.
            BackendCompileFailed: ONNX Runtime's own message.
            CannotWrite: the disk is full.
        """
        from optcc.backends.onnxruntime.lower.graph import lower

        data = lower(module, spans)
        with writing(root / MODEL):
            (root / MODEL).write_bytes(data)
        reason = try_open(root)
        if reason:
            raise BackendCompileFailed(f"ONNX Runtime refuses the graph: {reason}", where=MODEL)
        return {"onnxruntime": OLDEST}

    def graph_bytes(self, module: Module, spans: Mapping[str, Span]) -> int:
        """Of `model.onnx`: it is made and thrown away. Raises UnsupportedOp."""
        from optcc.backends.onnxruntime.lower.graph import lower

        return len(lower(module, spans))

    def unpack(self, root: Path) -> Module:
        """What was repacked for kernels is turned back."""
        from optcc.backends.onnxruntime.unpack import unpack

        return unpack(root)

    def kernels(self, root: Path) -> Sequence[KernelUse]:
        """Our own operators, the block kernels, or a product of floats."""
        from optcc.backends.onnxruntime.kernels import kernels

        return kernels(root)

    def evaluates(self) -> Collection[torch.dtype]:
        """The types that ONNX Runtime computes in."""
        from optcc.backends.onnxruntime.lower.types import COMPUTED

        return COMPUTED

    def evaluate(
        self, module: Module, root: Path, inputs: Mapping[str, npt.NDArray[Any]], threads: int
    ) -> Mapping[str, npt.NDArray[Any]]:
        """Lowered beside a link to the artifact's weights."""
        from optcc.backends.onnxruntime.evaluate import evaluate

        return evaluate(module, root, inputs, threads)

    def profile(
        self, root: Path, spec: Mapping[str, Any], threads: int, batches: Sequence[Batch], rounds: int
    ) -> Sequence[StepProfile]:
        """By its own profiler."""
        from optcc.backends.onnxruntime.profile import profile

        return profile(root, spec, threads, batches, rounds)

    def open_decoder(self, root: Path, spec: Mapping[str, Any], threads: int) -> Executor:
        """The graph over paged pools."""
        from optcc.backends.onnxruntime.executor import OnnxExecutor

        return OnnxExecutor(root, spec, threads)

    def open_unrounded(self, root: Path, spec: Mapping[str, Any], threads: int) -> Executor | None:
        """The graph with its linears told to leave activations alone, and keys and values cached in float32."""
        from optcc.backends.onnxruntime.executor import OnnxExecutor
        from optcc.backends.onnxruntime.unrounded import unrounded

        graph = unrounded(root)
        wide = {**spec, "kv_dtype": "float32", "kv_scale": ""}
        return None if graph is None else OnnxExecutor(root, wide, threads, graph)

    def rows_alike(self, root: Path) -> bool:
        """With our own operators they are; ONNX Runtime's sum as suits the number of rows."""
        from optcc.backends.onnxruntime.unrounded import rows_alike

        return rows_alike(root)

    def open_function(self, root: Path, spec: Mapping[str, Any], threads: int) -> CallExecutor:
        """The graph, called."""
        from optcc.backends.onnxruntime.executor import OnnxFunction

        return OnnxFunction(root, threads)


def backend() -> Backend:
    """This folder's backend."""
    return OnnxRuntime()
