"""The gated activation of GLU feed-forward layers.

Source: Shazeer, "GLU Variants Improve Transformer", 2020.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from optcc.ir.ops.library import define

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


def gated_activation(gate_up: Tensor, kind: str) -> Tensor:
    """`act(gate) * up`, where gate and up are the two halves of the last dimension.

    Shapes: gate_up [..., 2F] -> [..., F]. `kind` is a key of ACTIVATIONS.
    """
    gate, up = gate_up.chunk(2, dim=-1)
    return ACTIVATIONS[kind](gate) * up


def _gated_activation_fake(gate_up: Tensor, kind: str) -> Tensor:
    torch._check(kind in ACTIVATIONS, lambda: f"gated_activation: unknown kind {kind!r}")
    torch._check(gate_up.shape[-1] % 2 == 0, lambda: f"gated_activation: odd width {gate_up.shape}")
    return gate_up.new_empty((*gate_up.shape[:-1], gate_up.shape[-1] // 2))


define("gated_activation(Tensor gate_up, str kind) -> Tensor", gated_activation, _gated_activation_fake)
