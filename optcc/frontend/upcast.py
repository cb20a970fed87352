"""Run a model in float32 whose weights stay mapped in a smaller type: each layer is widened while it runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def compute_in_float32(model: nn.Module) -> nn.Module:
    """Make every layer with weights of its own widen them to float32 for the duration of its call.

    The reference an artifact is held against is the model's exact function, not one run of it in bfloat16; and a
    copy of all weights would take twice the model's size. Weights already in float32 stay as they are.
    """
    for module in model.modules():
        if any(p.is_floating_point() and p.dtype != torch.float32 for p in module.parameters(recurse=False)):
            _Widened(module)
    return model


class _Widened:
    """The two hooks of one layer and the narrow weights they put back."""

    def __init__(self, module: nn.Module) -> None:
        self.narrow: dict[str, torch.Tensor] = {}
        module.register_forward_pre_hook(self.widen)
        module.register_forward_hook(self.restore, always_call=True)

    def widen(self, module: nn.Module, arguments: Any) -> None:
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_floating_point() and parameter.dtype != torch.float32:
                self.narrow[name] = parameter.data
                parameter.data = parameter.data.float()

    def restore(self, module: nn.Module, arguments: Any, result: Any) -> None:
        for name, parameter in module.named_parameters(recurse=False):
            if name in self.narrow:
                parameter.data = self.narrow.pop(name)
