"""Which kernel computes each operator over quantized weights of an artifact, and why not a better one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import fx

from optcc.artifact.weights import SafetensorsIndex
from optcc.backends.onnxruntime.lower.blocks import EMBEDDING, LINEAR, Table, embedding_kernel, linear_kernel
from optcc.backends.onnxruntime.lower.chain import LINEARS, owners
from optcc.backends.onnxruntime.lower.storage import Storage, read_storage
from optcc.backends.onnxruntime.lower.tables import native_tables, why_not_native
from optcc.backends.onnxruntime.session import MODEL
from optcc.backends.protocol import KernelUse
from optcc.ir.parse import parse_module
from optcc.ir.pattern import normalized


def kernels(root: Path) -> Sequence[KernelUse]:
    """Every quantized linear and embedding, in the graph's order.

    Raises:
        CorruptWeights, IRTextError: the files can't be read.
    """
    module = parse_module((root / "model.ir").read_text())
    storage = read_storage(module, SafetensorsIndex.open(root / "weights.safetensors"))
    nodes = [n for graph in module.graphs.values() for n in graph.nodes if n.target in (LINEAR, EMBEDDING)]
    candidates = native_tables(module.graphs.values())
    loops = _loops(root)
    return [
        _use(node, storage, str(Table.of(node).packed.target) in candidates, loops.get(node.name, ""))
        for node in nodes
    ]


def _loops(root: Path) -> dict[str, str]:
    """Of every linear that runs in one loop with others, which of them it is."""
    import onnx

    graph = onnx.load_model(root / MODEL, load_external_data=False).graph
    joined = [owners(node.name) for node in graph.node if node.op_type == LINEARS]
    return {
        name: f", {place} of {len(names)} in one loop"
        for names in joined
        for place, name in enumerate(names, 1)
    }


def _use(node: fx.Node, storage: Storage, could_be_native: bool, loop: str) -> KernelUse:
    table = Table.of(node)
    name, form = str(table.packed.target), _form(node, table)
    if name in storage.native:
        operator = "QuantizedLinear" if node.target is LINEAR else "QuantizedEmbedding"
        return KernelUse(name, f"optcc.{operator} {form}{loop}")
    why = "compiled without native operators" if could_be_native else why_not_native(node) or ""
    if node.target is EMBEDDING:
        blocks = embedding_kernel(node) and (table.format != "int8" or name in storage.repackings)
        return KernelUse(name, f"{'GatherBlockQuantized' if blocks else 'Gather'} {form}", why)
    if linear_kernel(node) is None:
        return KernelUse(
            name, f"MatMul {form}, weights float32 in memory", why or table.why_no_kernel() or ""
        )
    return KernelUse(name, f"MatMulNBits {form}", why or "another reader of the weight needs it so")


def _form(node: fx.Node, table: Table) -> str:
    """As `w4 g64 asym a8`."""
    parts = [f"w{table.bits}", f"g{table.group}" if table.group else "channel"]
    parts += ["asym"] if table.zero is not None else []
    if node.target is LINEAR:
        parts.append("a8" if normalized(node)[0][9] else "a32")
    return " ".join(parts)
