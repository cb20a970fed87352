"""What a model consists of, counted on its modules; the report compares fusions with these counts."""

from __future__ import annotations

from torch import nn


def count(model: nn.Module, layers: int) -> dict[str, int]:
    """`attentions`, `rms_norms`, `layer_norms`, `ropes` (query and key each), `gated_mlps`, `linears`.

    A rope count is left out where a model turns rotary positions off for some layers.
    """
    modules = list(model.modules())
    names = [type(module).__name__ for module in modules]
    facts = {
        "attentions": layers,
        "rms_norms": sum("RMSNorm" in name for name in names),
        "layer_norms": sum("LayerNorm" in name and "RMS" not in name for name in names),
        "gated_mlps": sum(_is_gated(module) for module in modules),
        "linears": sum(
            isinstance(module, nn.Linear) or name == "Conv1D"
            for module, name in zip(modules, names, strict=True)
        ),
    }
    config = getattr(model, "config", None)
    if not getattr(config, "no_rope_layers", None) and not getattr(config, "no_rope_layer_interval", None):
        bases = getattr(config, "layer_rope_theta", None) or [1] * layers
        turned = sum(base != 0 for base in bases[:layers])  # a base of 0 turns nothing
        facts["ropes"] = 2 * turned if any("RotaryEmbedding" in name for name in names) else 0
    return facts


def _is_gated(module: nn.Module) -> bool:
    children = dict(module.named_children())
    return {"gate_proj", "up_proj"} <= children.keys() or "gate_up_proj" in children
