"""What the runtime must know of a compiled module: the manifest's `spec`."""

from __future__ import annotations

from typing import Any

import torch

from optcc.errors import PreconditionFailed
from optcc.ir.module import Module
from optcc.ir.types import show_type
from optcc.runtime.executor import ModelSpec

_NUMPY = {torch.float32: "float32", torch.int64: "int64", torch.int32: "int32", torch.bool: "bool"}


def manifest_spec(module: Module) -> dict[str, Any]:
    """For a decoder a ModelSpec; for a function its inputs and outputs with types.

    Raises:
        PreconditionFailed: a decoder whose KV cache was never attached.
    """
    if module.attrs.get("kind") != "decoder":
        return _function_spec(module)
    decoder, kv = module.attrs.get("decoder"), module.attrs.get("kv")
    if not isinstance(decoder, dict) or not isinstance(kv, dict):
        raise PreconditionFailed(
            "the recipe has no `serve.paged-kv`, so the decoder has no KV cache",
            hint="add `serve: [serve.paged-kv]` to the recipe's passes",
        )
    eos = decoder["eos_token_ids"]
    assert isinstance(eos, list)
    spec = ModelSpec(
        layers=_int(kv["layers"]),
        kv_heads=_int(kv["kv_heads"]),
        head_dim=_int(kv["head_dim"]),
        vocab=_int(decoder["vocab"]),
        block_size=_int(kv["block_size"]),
        max_context=_int(decoder["max_context"]),
        eos_token_ids=tuple(_int(t) for t in eos),
        kv_dtype=str(kv["dtype"]),
        kv_scale=str(kv.get("scale", "")),
    )
    return spec.to_json()


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value


def _function_spec(module: Module) -> dict[str, Any]:
    def entry(value: Any) -> dict[str, Any]:
        return {"type": show_type(value, module.dims), "dtype": _NUMPY.get(value.dtype, str(value.dtype))}

    outputs = module.graph.output_node().args[0]
    assert isinstance(outputs, tuple)
    spec: dict[str, Any] = {
        "inputs": {n.name: entry(n.meta["val"]) for n in module.inputs()},
        "outputs": {
            name: entry(n.meta["val"]) for name, n in zip(module.output_names(), outputs, strict=True)
        },
    }
    if "limits" in module.attrs:
        spec["limits"] = module.attrs["limits"]
    vocabulary = _vocabulary(module)
    return spec | ({"vocab": vocabulary} if vocabulary else {})


def _vocabulary(module: Module) -> int | None:
    """Rows of the table that token ids are looked up in."""
    embedding = torch.ops.aten.embedding.default
    quantized = torch.ops.optcc.quantized_embedding.default
    for node in module.find(embedding, quantized):
        table, ids = (
            (node.args[0], node.args[1]) if node.target is embedding else (node.args[1], node.args[0])
        )
        if getattr(ids, "name", "") == "input_ids":
            return int(table.meta["val"].shape[0])  # type: ignore[union-attr]
    return None
