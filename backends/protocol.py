"""What a backend is. Importing this module, or a backend's package, imports neither torch nor a vendor's library."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt

from optcc.artifact.weights import Span
from optcc.runtime.executor import Batch, CallExecutor, Executor

if TYPE_CHECKING:
    import torch
    from torch import fx

    from optcc.ir.module import Module


@dataclass(frozen=True)
class Availability:
    """Whether a backend can be used here.

    Attributes:
        ok: everything it needs is there.
        version: of its main package, or an empty string.
        reason: why not, when it can't.
        install: the command that installs what is missing.
        notes: further lines about what is here, such as which kernels it would use.
    """

    ok: bool
    version: str = ""
    reason: str = ""
    install: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of the artifact's weight file, as the backend wants it.

    Attributes:
        name: in the file.
        dtype: safetensors' name of the type, such as `F32`.
        shape: as stored.
        sources: the module's weights it is made of.
        read: makes the bytes; called once, when the tensor's turn comes.
        padding: bytes of it that only fill up lines or tiles.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    sources: tuple[str, ...]
    read: Callable[[], npt.NDArray[Any]]
    padding: int = 0


@dataclass(frozen=True)
class KernelUse:
    """What computes one operator over quantized weights.

    Attributes:
        weight: name of its packed weight.
        kernel: as `optcc.QuantizedLinear w4 g64 a8, 2 of 4 in one loop`.
        reason: why it isn't the best one there is; may be empty.
    """

    weight: str
    kernel: str
    reason: str = ""


@dataclass(frozen=True)
class StepProfile:
    """Where the time of a step goes.

    Attributes:
        seconds: of the whole step.
        nodes: seconds by the name of the graph's node; under the empty name what the runtime added.
        outside: seconds of a step in no node of the graph: between them, and in what the runtime added.
    """

    seconds: float
    nodes: Mapping[str, float]
    outside: float


class Backend(Protocol):
    """One folder below `backends/`; found by its name."""

    @property
    def name(self) -> str:
        """The folder's name, as recipes spell it."""
        ...

    def probe(self) -> Availability:
        """What is here; imports nothing heavy."""
        ...

    def supports(self, node: fx.Node, module: Module) -> str | None:
        """Why a node can't be run, or None when it can."""
        ...

    def pipeline(self) -> str:
        """Passes the backend needs after all others, as pipeline text; may be empty."""
        ...

    def plan_weights(self, module: Module) -> Sequence[StoredTensor]:
        """The tensors to store, in the backend's own form; reads no weight."""
        ...

    def compile(self, module: Module, root: Path, spans: Mapping[str, Span]) -> Mapping[str, str]:
        """Write the backend's files into `root`, where `weights.safetensors` lies already.

        Args:
            module: final.
            root: the artifact's directory.
            spans: where each tensor lies in the weight file.

        Returns:
            Oldest version of each package that can run the result.
        """
        ...

    def graph_bytes(self, module: Module, spans: Mapping[str, Span]) -> int:
        """Bytes of the files that `compile` would write. Writes nothing and reads no matrix.

        Raises what `compile` raises for operators that can't be lowered.
        """
        ...

    def unpack(self, root: Path) -> Module:
        """The final module of an artifact over its weights in the module's own form, mapped where they are stored so.

        Raises:
            CorruptWeights, IRTextError: the files can't be read.
        """
        ...

    def kernels(self, root: Path) -> Sequence[KernelUse]:
        """What computes the operators over quantized weights of an artifact, in the graph's order.

        Raises:
            CorruptWeights, IRTextError: the files can't be read.
        """
        ...

    def evaluates(self) -> Collection[torch.dtype]:
        """Types of values that `evaluate` can be given and return."""
        ...

    def evaluate(
        self, module: Module, root: Path, inputs: Mapping[str, npt.NDArray[Any]], threads: int
    ) -> Mapping[str, npt.NDArray[Any]]:
        """Lower another module over an artifact's weights and run it once: to prove single operators.

        Args:
            module: reads weights of the artifact's final module, in the same operators.
            root: the artifact's directory.
            inputs: by name; may be written to.
            threads: 0 means one per physical core.

        Returns:
            The module's results by name.
        """
        ...

    def profile(
        self, root: Path, spec: Mapping[str, Any], threads: int, batches: Sequence[Batch], rounds: int
    ) -> Sequence[StepProfile]:
        """Where the time of steps of a decoder goes, medians over some rounds; nothing where that can't be seen."""
        ...

    def open_decoder(self, root: Path, spec: Mapping[str, Any], threads: int) -> Executor:
        """Open a decoder's files for serving. `threads` 0 means one per physical core."""
        ...

    def open_unrounded(self, root: Path, spec: Mapping[str, Any], threads: int) -> Executor | None:
        """The same decoder with activations that no linear rounds, for checks; None if there is no such thing.

        Rounding turns a difference in a sum's last bit into noise as large as its own, in which mistakes of a lowering
        hide. Arguments as of `open_decoder`.
        """
        ...

    def rows_alike(self, root: Path) -> bool:
        """Whether a row's result is the same, but for the last bits of sums, whatever stands beside it in a step.

        False where such a bit can flip a rounding, for then no two batches agree.
        """
        ...

    def open_function(self, root: Path, spec: Mapping[str, Any], threads: int) -> CallExecutor:
        """Open a plain function's files."""
        ...
