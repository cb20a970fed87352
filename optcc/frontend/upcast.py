"""Run a model in float32 whose weights stay mapped in a smaller type: each layer is widened while it runs."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_AT_ONCE = 1 << 22
"""Elements of a linear's weight that are widened together: 16 MB. A vocabulary's would be hundreds."""


def compute_in_float32(model: nn.Module) -> nn.Module:
    """Make every layer with weights of its own widen them to float32 for the duration of its call.

    The reference an artifact is held against is the model's exact function, not one run of it in bfloat16; and a
    copy of all weights would take twice the model's size. Weights already in float32 stay as they are.
    """
    scratch = _Scratch()
    for module in model.modules():
        if any(p.is_floating_point() and p.dtype != torch.float32 for p in module.parameters(recurse=False)):
            _widen(module, scratch)
    return model


def _widen(module: nn.Module, scratch: _Scratch) -> None:
    """The two layers that hold a vocabulary are never widened whole; others, and their subclasses, are."""
    if type(module) is nn.Embedding:
        module.register_forward_hook(lambda _, __, rows: rows.float())
    elif type(module) is nn.Linear:
        module.forward = partial(_linear, module, scratch)  # type: ignore[method-assign]
    else:
        _Widened(module)


class _Scratch:
    """Where rows of a weight are widened: one place for all layers, since layers run one after another.

    A fresh one for every call would tear holes into the heap that the small results between them keep open: 350 MB
    after a few tokens of a model of 1.1 billion weights.
    """

    def __init__(self) -> None:
        self._values = torch.empty(0)

    def float32(self, weight: Tensor) -> Tensor:
        """[R,K] -> f32[R,K] without a gradient, valid until the next call."""
        if self._values.numel() < weight.numel():
            with torch.inference_mode(False):  # or it could only be written to in that mode later
                self._values = torch.empty(weight.numel())
        wide = self._values[: weight.numel()].view(weight.shape)
        return wide.copy_(weight.detach())


def _linear(module: nn.Linear, scratch: _Scratch, x: Tensor) -> Tensor:
    """f32[…, K] -> f32[…, O], some rows of the weight at a time."""
    step = max(1, _AT_ONCE // module.in_features)
    stored: Tensor | None = module.bias  # torch types it as always there
    bias = None if stored is None else stored.float()
    result = x.new_empty((*x.shape[:-1], module.out_features))
    for first in range(0, module.out_features, step):
        part = slice(first, first + step)
        rows = scratch.float32(module.weight[part])
        result[..., part] = functional.linear(x, rows, None if bias is None else bias[part])
    return result


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
