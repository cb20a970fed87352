"""ONNX Runtime on CPUs: the module as one ONNX graph over the artifact's weight file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optcc.artifact.weights import Span
from optcc.backends.protocol import Availability, Backend, StoredTensor
from optcc.runtime.executor import CallExecutor, Executor

if TYPE_CHECKING:
    from torch import fx

    from optcc.ir.module import Module

OLDEST = "1.24"
_INSTALL = "pip install 'optcc-compiler[onnxruntime]'"


class OnnxRuntime:
    """Lowers through onnx-ir, with contrib operators where ONNX Runtime has a kernel for them."""

    name = "onnxruntime"

    def probe(self) -> Availability:
        """Needs onnxruntime (any build) to run, and onnx-ir to compile."""
        found = next((v for name in ("onnxruntime", "onnxruntime-gpu") if (v := _version(name))), "")
        if not found:
            return Availability(False, reason="onnxruntime is not installed", install=_INSTALL)
        if tuple(int(n) for n in found.split(".")[:2]) < tuple(int(n) for n in OLDEST.split(".")):
            return Availability(False, found, f"onnxruntime {found} is older than {OLDEST}", _INSTALL)
        if not _version("onnx-ir"):
            return Availability(False, found, "onnx-ir is not installed", _INSTALL)
        return Availability(True, found)

    def supports(self, node: fx.Node, module: Module) -> str | None:
        """Why ONNX Runtime can't take a node, or None."""
        from optcc.backends.onnxruntime.lower import refuse

        return refuse(node)

    def pipeline(self) -> str:
        """Nothing more: fusions are the recipe's."""
        return ""

    def plan_weights(self, module: Module) -> Sequence[StoredTensor]:
        """Weights as ONNX Runtime's operators want them."""
        from optcc.backends.onnxruntime.weights import plan_weights

        return plan_weights(module)

    def compile(self, module: Module, root: Path, spans: Mapping[str, Span]) -> Mapping[str, str]:
        """Write `model.onnx`."""
        from optcc.backends.onnxruntime.compile import write_model

        write_model(module, root, spans)
        return {"onnxruntime": OLDEST}

    def open_decoder(self, root: Path, spec: Mapping[str, Any], threads: int) -> Executor:
        """A session with the KV pool bound in place."""
        from optcc.backends.onnxruntime.executor import OnnxExecutor

        return OnnxExecutor(root, spec, threads)

    def open_function(self, root: Path, spec: Mapping[str, Any], threads: int) -> CallExecutor:
        """A session, called."""
        from optcc.backends.onnxruntime.executor import OnnxFunction

        return OnnxFunction(root, threads)


def backend() -> Backend:
    """This folder's backend."""
    return OnnxRuntime()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
