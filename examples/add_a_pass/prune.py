"""A pass of your own: one file, named in a recipe as `./prune.py:Prune`."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from optcc.pm import Context, Contract, Module, Pass, kl


@dataclass(frozen=True)
class Prune(Pass):
    """Set the small weights of every linear to zero: |w| < below * max |w| of its output channel."""

    contract: ClassVar[Contract] = kl(0.01)
    below: float = 0.01

    def run(self, module: Module, ctx: Context) -> bool:
        linears = module.find(torch.ops.aten.linear.default)
        names = {str(node.args[1].target) for node in linears if module.is_weight(node.args[1])}
        zeros = 0
        for name in sorted(names):
            weight = module.weights[name]
            small = weight.abs() < self.below * weight.abs().amax(dim=1, keepdim=True)
            zeros += int(small.sum())
            module.weights.put(name, weight.masked_fill(small, 0.0))
        module.attrs["pruned"] = self.below  # a module's text shows its facts, not the values of its weights
        ctx.note(f"{zeros} values of {len(names)} linears set to zero")
        return True
