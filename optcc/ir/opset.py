"""Which operators a stage allows.

After `canonicalize` there is one spelling of each thing; fusions and backends rely on it and need not know
the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from optcc.errors import IRCheckFailed


@dataclass(frozen=True)
class OpSet:
    """Operators that are not allowed, each with what should stand there instead."""

    name: str
    refused: Mapping[str, str]

    def refuse(self, node: fx.Node) -> str | None:
        """Why the node isn't allowed here, or None."""
        why = self.refused.get(str(node.target))
        return f"not allowed after {self.name}: {why}" if why else None

    def require(self, node: fx.Node) -> None:
        """Raise IRCheckFailed, with the node's source line, unless it is allowed."""
        if why := self.refuse(node):
            raise IRCheckFailed(f"%{node.name} = {node.target}: {why}", where=node.meta.get("source"))


CANONICAL = OpSet(
    "canonicalize",
    {
        "aten.addmm.default": "write aten.linear",
        "aten.mm.default": "write aten.linear or aten.matmul",
        "aten.t.default": "write aten.transpose.int",
        "aten.view.default": "write aten.reshape",
        "aten._unsafe_view.default": "write aten.reshape",
        "aten.flatten.using_ints": "write aten.reshape",
        "aten.chunk.default": "write aten.split_with_sizes",
        "aten.split.Tensor": "write aten.split_with_sizes",
        "aten.dropout.default": "does nothing in inference",
        "aten.alias.default": "does nothing",
        "aten.detach.default": "does nothing in inference",
        "aten.detach_.default": "does nothing in inference",
        "aten.clone.default": "does nothing in a graph without writes",
        "aten.contiguous.default": "does nothing in a graph without strides",
        "aten.expand_as.default": "write aten.expand",
        "aten.rms_norm.default": "write optcc.rms_norm",
        "aten.to.dtype": "write aten._to_copy",
        "aten.to.device": "there is one device",
        "aten._assert_tensor_metadata.default": "types are checked by check_ir",
    },
)
"""One spelling: what canonicalize must have rewritten."""

SERVING = OpSet("serve", {"optcc.attention.default": "the KV cache is not attached to it"})
"""A served decoder has no stateless attention left."""

FORMS: Mapping[str, OpSet] = {
    "canonical": CANONICAL,
    "serving": SERVING,
    "canonical-serving": OpSet("serve", {**CANONICAL.refused, **SERVING.refused}),
}
"""What `module.attrs["form"]` promises."""
