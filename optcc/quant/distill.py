"""Quantization-aware distillation: train packed weights so that the module answers like its original.

The loss is KL(original || quantized) in nats per token for a decoder, else the squared error of the results over their
mean square. AdamW (Loshchilov and Hutter, 2019) without decay on latent weights and logarithms of scales. The learning
rate of a weight is in its own mean quantization steps, so one value fits all models. It rises over the first
steps and falls as a cosine to a tenth. Everything random is decided by (seed, epoch); the state is written down now and
then, so that a killed run goes on and ends with the same bytes.

Source of distilling into a quantized copy of the model itself: Liu et al., "LLM-QAT", 2023.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, fx

from optcc.ir.module import Module
from optcc.quant.differentiable import run_differentiable
from optcc.quant.rounding import PackedWeight

_WARMUP = 0.05
_FLOOR = 0.1
_BETAS = (0.9, 0.95)
_SAVE_SECONDS = 120.0
_STATE = "state.safetensors"


@dataclass(frozen=True)
class Schedule:
    """How to train.

    Attributes:
        steps: updates; 0 takes as many as fit into `minutes`.
        minutes: used when steps is 0.
        windows: windows of text per update.
        lr: largest change of a weight per update, in its mean quantization steps, roughly.
        scale_lr: largest relative change of a scale per update, roughly.
        seed: of the order of windows.
        held_out: windows at the end of the data that are measured on, not trained on.
    """

    steps: int
    minutes: float
    windows: int
    lr: float
    scale_lr: float
    seed: int
    held_out: int

    def factor(self, step: int, steps: int) -> float:
        """What the learning rates are multiplied by at an update."""
        warm = max(1, int(steps * _WARMUP))
        if step < warm:
            return (step + 1) / warm
        done = (step - warm) / max(1, steps - warm)
        return _FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Outcome:
    """What training did.

    Attributes:
        steps: updates that were made.
        losses: of every update, on its windows.
        before, after: loss on the windows held out, as packed.
    """

    steps: int
    losses: tuple[float, ...]
    before: float
    after: float


class Trainable(Protocol):
    """A packed weight under training."""

    def trained(self) -> dict[str, tuple[Tensor, float]]:
        """Tensors to train, by name, and the size of a step that their learning rate is relative to."""
        ...

    def value(self) -> Tensor:
        """The weight [O, K] as the program reads it, with gradients to what is trained."""
        ...

    def pack(self) -> PackedWeight:
        """The weight as it is stored."""
        ...


@dataclass
class Distiller:
    """Trains the packed weights of one module against another.

    Attributes:
        teacher: the original.
        student: the same graph with packed weights.
        latents: what is trained, by the student's node that reads it.
        batches: inputs, one window of text each.
        schedule: how.
        keep: where unfinished work is written; None for nowhere.
        progress: told (text, done, total).
        device: where to compute.
    """

    teacher: Module
    student: Module
    latents: Mapping[fx.Node, Trainable]
    batches: Sequence[Mapping[str, Tensor]]
    schedule: Schedule
    keep: Path | None = None
    progress: Callable[[str, int, int], None] = lambda text, done, total: None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        held = self.schedule.held_out
        if len(self.batches) <= held:
            raise ValueError(f"{len(self.batches)} windows, of which {held} are held out: nothing is left")
        split = len(self.batches) - held
        self._train, self._test = self.batches[:split], self.batches[split:]
        self._kind = "kl" if self.teacher.attrs.get("kind") == "decoder" else "error"
        self._cache: dict[str, Tensor] = {}
        self._optimizer = self._make_optimizer()

    def run(self) -> Outcome:
        """Train; afterwards the latents are what `Latent.pack` packs."""
        state = self._load()
        if state is None:
            state = (0, self.schedule.steps or self._affordable(), self.measure(), [])
        done, steps, before, losses = state
        saved = time.monotonic()
        for step in range(done, steps):
            losses.append(self._update(step, steps))
            self.progress(f"distill: {self._kind} {losses[-1]:.4f}", step + 1, steps)
            if self.keep is not None and time.monotonic() - saved > _SAVE_SECONDS:
                self._save(step + 1, steps, before, losses)
                saved = time.monotonic()
        return Outcome(steps, tuple(losses), before, self.measure())

    def measure(self) -> float:
        """Mean loss on the windows held out, by rows."""
        if not self._test:
            return math.nan
        with torch.no_grad():
            parts = [self._loss([batch]) for batch in self._test]
        rows = [_rows(batch) for batch in self._test]
        return sum(float(p) * n for p, n in zip(parts, rows, strict=True)) / sum(rows)

    def _make_optimizer(self) -> torch.optim.AdamW:
        groups: list[dict[str, object]] = []
        for latent in self.latents.values():
            for name, (tensor, unit) in latent.trained().items():
                rate = self.schedule.scale_lr if name == "log_scale" else self.schedule.lr
                groups.append({"params": [tensor], "base": rate * unit})
        return torch.optim.AdamW(groups, lr=0.0, betas=_BETAS, weight_decay=0.0, eps=1e-12)

    def _update(self, step: int, steps: int) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = group["base"] * self.schedule.factor(step, steps)
        loss = self._backward(step)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss

    def _backward(self, step: int) -> float:
        loss = self._loss(self._pick(step))
        loss.backward()
        return float(loss.detach())

    def _pick(self, step: int) -> list[Mapping[str, Tensor]]:
        """The windows of an update: epochs, each in an order of its own."""
        count = len(self._train)
        picked = []
        for place in range(step * self.schedule.windows, (step + 1) * self.schedule.windows):
            epoch, index = divmod(place, count)
            generator = torch.Generator().manual_seed(self.schedule.seed * 1_000_003 + epoch)
            picked.append(self._train[int(torch.randperm(count, generator=generator)[index])])
        return picked

    def _affordable(self) -> int:
        """How many updates fit into the minutes, by the second of two that are not made."""
        seconds = 0.0
        for _ in range(2):
            began = time.monotonic()
            self._backward(0)
            self._optimizer.zero_grad(set_to_none=True)
            seconds = time.monotonic() - began
        return max(1, int(self.schedule.minutes * 60 / seconds))

    def _loss(self, batches: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Mean over the rows of all batches."""
        total = sum(_rows(batch) for batch in batches)
        parts = []
        for batch in batches:
            inputs = {name: value.to(self.device) for name, value in batch.items()}
            with torch.no_grad():
                wanted = self._first(
                    self.teacher, run_differentiable(self.teacher, inputs, self._weight(self.teacher))
                )
            made = {node: latent.value for node, latent in self.latents.items()}
            found = self._first(
                self.student, run_differentiable(self.student, inputs, self._weight(self.student), made)
            )
            parts.append(self._distance(wanted, found) * (_rows(batch) / total))
        return torch.stack(parts).sum()

    def _distance(self, wanted: Tensor, found: Tensor) -> Tensor:
        if self._kind == "kl":
            wanted, found = (x.flatten(0, -2).float().log_softmax(-1) for x in (wanted, found))
            return F.kl_div(found, wanted, log_target=True, reduction="batchmean")
        return (found.float() - wanted.float()).square().mean() / wanted.float().square().mean()

    def _first(self, module: Module, results: Mapping[str, Tensor]) -> Tensor:
        return results[module.output_names()[0]]

    def _weight(self, module: Module) -> Callable[[str], Tensor]:
        """Weights that are not trained; on another device they stay there."""
        if self.device.type == "cpu":
            return module.weights.__getitem__

        def read(name: str) -> Tensor:
            ref = module.weights.refs[name]
            key = f"{name} {ref.path} {ref.offset}"
            if key not in self._cache:
                self._cache[key] = module.weights[name].to(self.device)
            return self._cache[key]

        return read

    def _save(self, done: int, steps: int, before: float, losses: Sequence[float]) -> None:
        """Write the state down, whole or not at all."""
        assert self.keep is not None
        tensors: dict[str, Tensor] = {"losses": torch.tensor(losses, dtype=torch.float64)}
        for index, latent in enumerate(self.latents.values()):
            for name, (tensor, _) in latent.trained().items():
                tensors[f"{index}.{name}"] = tensor.detach().cpu()
                for key, value in self._optimizer.state.get(tensor, {}).items():
                    tensors[f"{index}.{name}.{key}"] = value.cpu()
        partial = self.keep / f".{_STATE}"
        save_file(tensors, partial, {"done": str(done), "steps": str(steps), "before": before.hex()})
        partial.replace(self.keep / _STATE)

    def _load(self) -> tuple[int, int, float, list[float]] | None:
        """Take up a state that was written down: (updates made, of how many, first loss held out, losses)."""
        if self.keep is None or not (self.keep / _STATE).is_file():
            return None
        with safe_open(self.keep / _STATE, "pt") as file:
            facts, names = file.metadata(), list(file.keys())
            for index, latent in enumerate(self.latents.values()):
                for name, (tensor, _) in latent.trained().items():
                    with torch.no_grad():
                        tensor.copy_(file.get_tensor(f"{index}.{name}"))
                    prefix = f"{index}.{name}."
                    kept = {k.removeprefix(prefix): file.get_tensor(k) for k in names if k.startswith(prefix)}
                    if kept:
                        self._optimizer.state[tensor] = {
                            k: v if k == "step" else v.to(self.device) for k, v in kept.items()
                        }
            losses = [float(x) for x in file.get_tensor("losses")]
        return int(facts["done"]), int(facts["steps"]), float.fromhex(facts["before"]), losses


def _rows(batch: Mapping[str, Tensor]) -> int:
    """Rows of results that a batch asks for."""
    return len(batch["logit_rows"]) if "logit_rows" in batch else 1
