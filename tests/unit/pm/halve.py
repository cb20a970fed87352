"""A small pass with options of every type, for the tests of pipelines."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from optcc.pm import Context, Module, Pass


@dataclass(frozen=True)
class Halve(Pass):
    """Turn the first multiplication by a number into one by half of it."""

    id = "test.halve"
    at_least: float = 1.0
    names: tuple[str, ...] = ()
    on: bool = True
    label: str = "x"

    def run(self, module: Module, ctx: Context) -> bool:
        for node in module.find(torch.ops.aten.mul.Tensor):
            if node.args[1] / 2 >= self.at_least:
                node.args = (node.args[0], node.args[1] / 2)
                return True
        return False
