"""The stages as the presets list them."""

from __future__ import annotations

CANONICALIZE = ",".join(
    f"canonicalize.{name}"
    for name in (
        "spelling",
        "operands",
        "identities",
        "shapes",
        "constants",
        "duplicates",
        "activation",
        "norm",
        "rope",
        "layout",
        "slices",
        "identities",
        "duplicates",
        "dead-code",
        "form",
    )
)
FUSE = "fuse.dequant-linear,fuse.gated-mlp,fuse.qkv,fuse.add-rms-norm,fuse.early-rows"
