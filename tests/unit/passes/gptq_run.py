"""GPTQ on a small chain of linears; as a program, killed at a given weight."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from torch import Tensor

from optcc.ir.module import Module
from optcc.ir.parse import parse_module
from optcc.pm import Context, build_pass
from optcc.pm.context import Calibration

LAYERS, WIDTH = 5, 128


def chain() -> Module:
    """Layers of two linears that read the same value and one that reads their product."""
    lines = ['optcc.ir 1\nattrs {"form": "canonical", "kind": "function"}\ngraph model {']
    lines.append(f"  %v0 : f32[T, {WIDTH}] = input")
    for i in range(LAYERS):
        for name, x in (("a", f"v{i}"), ("b", f"v{i}")):
            lines.append(f"  %{name}{i} : f32[T, {WIDTH}] = aten.linear.default(%{x}, @{i}.{name})")
        lines.append(f"  %s{i} : f32[T, {WIDTH}] = aten.silu.default(%a{i})")
        lines.append(f"  %m{i} : f32[T, {WIDTH}] = aten.mul.Tensor(%s{i}, %b{i})")
        lines.append(f"  %c{i} : f32[T, {WIDTH}] = aten.linear.default(%m{i}, @{i}.c)")
        lines.append(f"  %v{i + 1} : f32[T, {WIDTH}] = aten.add.Tensor(%v{i}, %c{i})")
    lines.append(f"  return y = %v{LAYERS}\n}}\nweights {{")
    names = [f"{i}.{name}" for i in range(LAYERS) for name in "abc"]
    lines += [f"  @{name} : f32[{WIDTH}, {WIDTH}]" for name in names]
    module = parse_module("\n".join(lines) + "\n}\n")
    generator = torch.Generator().manual_seed(0)
    for name in names:
        module.weights.put(name, torch.randn(WIDTH, WIDTH, generator=generator) / (2 * WIDTH**0.5))
    return module


def inputs(seed: int, tokens: int) -> dict[str, Tensor]:
    """What the chain reads: channels that go together, as in a real model."""
    mix = torch.randn(32, WIDTH, generator=torch.Generator().manual_seed(5)) / 32**0.5
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(tokens, WIDTH, generator=generator) / 8
    return {"v0": torch.randn(tokens, 32, generator=generator) @ mix + noise}


def context(scratch: Path | None) -> Context:
    """With calibration data."""
    batches = tuple(inputs(seed, 200) for seed in range(3))
    return Context(calibration=Calibration(batches, "random", 600), scratch=scratch)


def _die(name: str, done: int, total: int) -> None:
    if done == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    torch.set_num_threads(1)
    disturbed = context(Path(sys.argv[1]))
    disturbed.progress = _die
    build_pass("quantize.gptq", {"scheme": "int4-g32-a8"}).run(chain(), disturbed)
