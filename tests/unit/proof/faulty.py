"""Passes with planted faults, named by the recipes of the tests in this folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from optcc.pm import EXACT, Builder, Context, Contract, Module, Pass, tolerance
from optcc.pm.options import show_options


def _mark(module: Module, step: Pass) -> None:
    """A change of values alone doesn't show in the text, so a fact is left."""
    module.attrs[f"fault {step.id.rpartition(':')[2]}"] = show_options(step)


@dataclass(frozen=True)
class DoubleScale(Pass):
    """The scales of one packed weight are doubled."""

    contract: ClassVar[Contract] = tolerance()
    weight: str = ""
    factor: float = 2.0

    def run(self, module: Module, ctx: Context) -> bool:
        """Multiply them."""
        name = f"{self.weight}.scale"
        module.weights.put(name, module.weights[name] * self.factor)
        _mark(module, self)
        return True


@dataclass(frozen=True)
class SwapGateUp(Pass):
    """Gate and up of one layer change places."""

    contract: ClassVar[Contract] = EXACT
    layer: int = 0

    def run(self, module: Module, ctx: Context) -> bool:
        """Exchange which weights are read."""
        prefix = f"model.layers.{self.layer}.mlp"
        names = [f"{prefix}.gate_proj.weight", f"{prefix}.up_proj.weight"]
        gate, up = (module.weight_node(module.graph, name) for name in names)
        gate.target, up.target = up.target, gate.target
        return True


@dataclass(frozen=True)
class Epsilon(Pass):
    """The epsilon of one norm is another one."""

    number: int = 0
    eps: float = 0.1

    def run(self, module: Module, ctx: Context) -> bool:
        """Rewrite the operand."""
        node = module.find(torch.ops.optcc.rms_norm.default)[self.number]
        node.update_arg(2, self.eps)
        return True


@dataclass(frozen=True)
class Scaled(Pass):
    """What one linear computes is multiplied by a factor."""

    weight: str = ""
    factor: float = 1.01

    def run(self, module: Module, ctx: Context) -> bool:
        """Put a multiplication behind it."""
        linear = next(iter(module.weight_node(module.graph, self.weight).users))
        build = Builder(module, linear.next, linear)
        product = build.call(torch.ops.aten.mul.Tensor, linear, self.factor)
        linear.replace_all_uses_with(product, delete_user_cb=lambda user: user is not product)
        return True


@dataclass(frozen=True)
class Crash(Pass):
    """Raises."""

    def run(self, module: Module, ctx: Context) -> bool:
        """Raise."""
        raise ValueError("planted")


@dataclass(frozen=True)
class Nan(Pass):
    """A weight becomes NaN."""

    weight: str = ""

    def run(self, module: Module, ctx: Context) -> bool:
        """Write NaN."""
        module.weights.put(self.weight, module.weights[self.weight] * float("nan"))
        _mark(module, self)
        return True
