"""Quantize weights, then train them against the original: quantization-aware distillation."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from optcc.errors import BadOption, PreconditionFailed
from optcc.ir.module import Module
from optcc.pm.context import Context
from optcc.pm.text import parse_pipeline
from optcc.quant.distill import Distiller, Outcome, Schedule, Trainable
from optcc.quant.fixed_levels import fix_levels
from optcc.quant.rounding import PackedWeight
from optcc.quant.spread import split
from optcc.quant.straight_through import make_latent
from optcc.quant.weight_pass import WeightPass
from optcc.recipe.schemes import WeightFormat

_DEQUANTIZE = torch.ops.optcc.dequantize.default
_HELD_OUT = 16  # one window in so many


@dataclass(frozen=True)
class Distill(WeightPass):
    """`min over w, s of KL(original || linear(x, s * round(w / s)))`: weights and scales of packed weights are trained.

    It takes the place of `quantize.linear` or `quantize.gptq`: it runs that pass itself (`start`), and improves what
    it packed. The original is the module as it comes in, so weights that an earlier pass packed are part of it and
    stay. Gradients pass straight through rounding, and scales are learned (`optcc.quant.straight_through`), or only
    scales are (`optcc.quant.fixed_levels`); embeddings that a scheme packs are trained too, while norms, biases and
    everything else in floating point stay. One calibration
    window in 16 is held out of training and measured before and after, as packed; if it did not improve, what `start`
    packed stays. A killed compile goes on where it was.

    Before: canonical; every linear is `aten.linear` on a weight. After: canonical; the same weights are packed as by
    `start`, and the module's `distilled` says how many updates were made and whether they were kept.

    Options:
        scheme: a scheme's name, or a YAML file relative to the recipe.
        part: `all`, `body`, or `vocabulary`, which is the embedding and the head; `all` leaves the vocabulary out
            where the scheme's `embedding` is false.
        only: names of the weights to take, `*` allowed; empty for all.
        skip: names of weights to leave alone, `*` allowed.
        start: the pass that packs first, with options of its own; scheme, part, only and skip are given to it.
        steps: updates; 0 takes as many as fit into `minutes`, by a measurement, and writes down how many: repeat that
            number for the same bytes.
        minutes: time to train when `steps` is 0.
        train: `all`, or `scales`: then every weight keeps its level, which suits a start that chose levels well.
        windows: calibration windows in one update.
        lr: learning rate of weights, in mean quantization steps of the weight.
        scale-lr: learning rate of scales, relative to the scale.
        seed: of the order of windows.
        device: `cpu` or `cuda`.

    Raises:
        PreconditionFailed: too few windows, no such device, or nothing to train.
        BadOption: `start` is no pass that packs weights, or a number is out of range.
        NoCalibration: no data.
    """

    farthest: ClassVar[float] = 8.0  # trained weights leave the original's on purpose
    calibrates: ClassVar[bool] = True
    moves: ClassVar[str] = "it was trained after it was packed"
    start: str = "quantize.linear{search=20}"
    steps: int = 200
    minutes: float = 0.0
    train: str = "all"
    windows: int = 1
    lr: float = 0.001
    scale_lr: float = 0.0003
    seed: int = 0
    device: str = "cpu"

    def run(self, module: Module, ctx: Context) -> bool:
        """Pack, train, and pack again."""
        first = self._start(ctx)
        batches = ctx.need_calibration(self.id).batches
        device = self._device()
        held = max(1, len(batches) // _HELD_OUT)
        if len(batches) <= held:
            raise PreconditionFailed(
                f"{self.id} needs at least two windows of calibration data, there is {len(batches)}",
                hint="raise `calibrate.tokens`, or lower `calibrate.window`",
            )
        trained, tested = split(batches, held)
        teacher = module.clone()
        selected = self.select(module, ctx.base)
        if not selected:
            return False
        first.run(module, ctx)
        form = self.load(ctx.base).weight
        latents = _latents(module, teacher, form, self.train, device)
        if not latents:
            raise PreconditionFailed(f"{self.id}: {first.id} packed nothing that can be trained")
        schedule = Schedule(
            self.steps, self.minutes, self.windows, self.lr, self.scale_lr, self.seed, held_out=held
        )
        distiller = Distiller(
            teacher, module, latents, [*trained, *tested], schedule, ctx.keep("distill"), ctx.progress, device
        )
        outcome = distiller.run()
        better = outcome.after < outcome.before
        if better:
            for node, latent in latents.items():
                _store(module, node, latent.pack())
        self._record(module, ctx, outcome, better)
        return True

    def _start(self, ctx: Context) -> WeightPass:
        """The pass that packs first, with this pass's choice of weights."""
        if self.steps < 0 or self.windows < 1 or (not self.steps and not self.minutes > 0):
            raise BadOption(f"{self.id} needs steps or minutes above 0, and windows of at least 1")
        if self.train not in ("all", "scales"):
            raise BadOption(f"train: there is no {self.train!r}", hint="all or scales")
        if self.train == "scales" and self.load(ctx.base).weight.scale == "e8m0":
            raise BadOption("train: scales that are powers of two can't be trained", hint="train: all")
        passes = parse_pipeline(self.start, ctx.base).passes
        if len(passes) != 1 or not isinstance(passes[0], WeightPass) or isinstance(passes[0], Distill):
            raise BadOption(
                f"start: `{self.start}` is not one pass that packs weights",
                hint="`quantize.linear{search=20}`, for example",
            )
        return dataclasses.replace(
            passes[0], scheme=self.scheme, part=self.part, only=self.only, skip=self.skip
        )

    def _device(self) -> torch.device:
        if self.device not in ("cpu", "cuda"):
            raise BadOption(f"device: there is no device {self.device!r}", hint="cpu or cuda")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise PreconditionFailed(f"{self.id}: torch finds no GPU", hint="device: cpu")
        return torch.device(self.device)

    def _record(self, module: Module, ctx: Context, outcome: Outcome, better: bool) -> None:
        record = module.attrs.setdefault("distilled", [])
        assert isinstance(record, list)
        record.append({"steps": outcome.steps, "kept": better})
        ctx.table(
            "distillation",
            [{"step": i + 1, "loss": _digits(loss)} for i, loss in enumerate(outcome.losses)],
        )
        verdict = "" if better else "; no better, so the weights stay as they were packed first"
        ctx.note(
            f"{outcome.steps} updates: held-out loss {outcome.before:.4f} before, {outcome.after:.4f} after{verdict}"
        )


def _digits(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.6g}")


def _latents(
    module: Module, teacher: Module, form: WeightFormat, train: str, device: torch.device
) -> dict[fx.Node, Trainable]:
    """What was packed just now, by the node that unpacks it."""
    found: dict[fx.Node, Trainable] = {}
    for node in module.find(_DEQUANTIZE):
        packed = node.args[0]
        if not module.is_weight(packed):
            continue
        assert isinstance(packed, fx.Node)
        name = str(packed.target).removesuffix(".packed")
        if name in teacher.weights:
            weight, now = teacher.weights[name], _packed(module, node)
            if train == "scales":
                found[node] = fix_levels(now, weight.shape[0], form, device)
            else:
                found[node] = make_latent(weight, now, form, device)
    return found


def _packed(module: Module, node: fx.Node) -> PackedWeight:
    parts = [module.weights[str(a.target)] if isinstance(a, fx.Node) else None for a in node.args[:4]]
    assert parts[0] is not None
    assert parts[1] is not None
    return PackedWeight(parts[0], parts[1], parts[2], parts[3])


def _store(module: Module, node: fx.Node, packed: PackedWeight) -> None:
    """Zero points and the scale of the whole tensor are not trained."""
    for place, tensor in ((0, packed.packed), (1, packed.scale)):
        weight = node.args[place]
        assert isinstance(weight, fx.Node)
        module.weights.put(str(weight.target), tensor)
