"""The reference backend: the interpreter as executor. Runs every operator, slowly; the oracle for all others."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optcc.artifact.weights import Span
from optcc.backends.protocol import Availability, Backend, KernelUse, StepProfile, StoredTensor
from optcc.runtime.executor import Batch, CallExecutor, Executor

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch
    from torch import fx

    from optcc.ir.module import Module


class Reference:
    """Keeps canonical weights, and runs the module's own text."""

    name = "reference"

    def probe(self) -> Availability:
        """Needs torch alone."""
        if find_spec("torch") is None:
            return Availability(
                False, reason="torch is not installed", install="pip install 'optcc-compiler[compile]'"
            )
        from importlib.metadata import version

        return Availability(True, version("torch"))

    def supports(self, node: fx.Node, module: Module) -> str | None:
        """Everything: each operator has a reference."""
        return None

    def pipeline(self) -> str:
        """Nothing is lowered."""
        return ""

    def plan_weights(self, module: Module) -> Sequence[StoredTensor]:
        """Every weight as it is."""
        from optcc.backends.reference.weights import canonical_weights

        return canonical_weights(module)

    def compile(self, module: Module, root: Path, spans: Mapping[str, Span]) -> Mapping[str, str]:
        """Nothing to write: the artifact's `model.ir` is what runs."""
        return {"torch": "2.11"}

    def graph_bytes(self, module: Module, spans: Mapping[str, Span]) -> int:
        """Nothing."""
        return 0

    def unpack(self, root: Path) -> Module:
        """The module that runs."""
        from optcc.backends.reference.weights import open_weights
        from optcc.ir.parse import parse_module

        return parse_module((root / "model.ir").read_text(), open_weights(root / "weights.safetensors"))

    def kernels(self, root: Path) -> Sequence[KernelUse]:
        """Torch's float32 product of everything, dequantized."""
        return []

    def evaluates(self) -> Collection[torch.dtype]:
        """Whatever can be stored, and numpy has."""
        import torch

        return frozenset({torch.float32, torch.float64, torch.int64, torch.int32, torch.int8, torch.uint8})

    def evaluate(
        self, module: Module, root: Path, inputs: Mapping[str, npt.NDArray[Any]], threads: int
    ) -> Mapping[str, npt.NDArray[Any]]:
        """The interpreter over the artifact's weights."""
        import torch

        from optcc.backends.reference.weights import open_weights
        from optcc.ir.interpret import interpret

        copy = module.clone()
        copy.weights = open_weights(root / "weights.safetensors")
        tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
        return {name: value.numpy() for name, value in interpret(copy, tensors).items()}

    def profile(
        self, root: Path, spec: Mapping[str, Any], threads: int, batches: Sequence[Batch], rounds: int
    ) -> Sequence[StepProfile]:
        """Nothing: what the interpreter takes says nothing of a machine."""
        return []

    def open_decoder(self, root: Path, spec: Mapping[str, Any], threads: int) -> Executor:
        """The interpreter over paged pools."""
        import torch

        from optcc.backends.reference.executor import ReferenceExecutor, open_module

        if threads:
            torch.set_num_threads(threads)
        return ReferenceExecutor(open_module(root), spec)

    def open_unrounded(self, root: Path, spec: Mapping[str, Any], threads: int) -> Executor | None:
        """None: what it would be compared with is itself."""
        return None

    def rows_alike(self, root: Path) -> bool:
        """Torch's products sum as suits the number of rows."""
        return False

    def open_function(self, root: Path, spec: Mapping[str, Any], threads: int) -> CallExecutor:
        """The interpreter, called."""
        from optcc.backends.reference.executor import ReferenceFunction

        return ReferenceFunction(root, threads)


def backend() -> Backend:
    """This folder's backend."""
    return Reference()
