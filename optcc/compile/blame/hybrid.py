"""The compiled model with parts of the original put back, and what that recovers.

Original and compiled module compute the same residual stream, so any segment may run on either side. A run begins where
the first part is put back: the stream before it is that of the compiled model and is kept.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optcc.accuracy.intervals import Estimate, Units, mean_estimate
from optcc.compile.blame.side import Put, Side
from optcc.errors import NothingToBlame
from optcc.quant.divergence import Reference


@dataclass(frozen=True)
class Effect:
    """What putting something back does to the KL divergence from the original, in nats per row.

    Attributes:
        recovered: fall of the mean over rows, paired, with its 95 % interval.
        rest: the mean that remains.
        share: recovered, of the whole loss.
    """

    recovered: Estimate
    rest: float
    share: float

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"recovered": self.recovered.to_json(), "rest": self.rest, "share": self.share}


class Hybrid:
    """Both sides on the same windows.

    Args:
        original: float, in the basis of the compiled one.
        compiled: at any point after.
        reference: logits of the captured model.
        units: how rows group.

    Raises:
        NothingToBlame: the two don't have the same number of segments.
    """

    def __init__(self, original: Side, compiled: Side, reference: Reference, units: Units) -> None:
        ours, theirs = len(original.segments), len(compiled.segments)
        if ours != theirs:
            raise NothingToBlame(
                f"the original's residual stream has {ours} parts and the compiled one's {theirs}",
                hint="optcc bisect names the pass",
            )
        self.original, self.compiled = original, compiled
        self.reference, self.units = reference, units
        self.lanes = range(len(reference.logits))
        self.probes = 0
        self.streams = [self._streams(compiled, lane) for lane in self.lanes]
        self.rows = reference.divergences([s[-1] for s in self.streams])
        """KL of every row of the compiled model."""

    @property
    def count(self) -> int:
        """How many segments there are."""
        return len(self.original.segments)

    @property
    def loss(self) -> Estimate:
        """KL(original || compiled), nats per row."""
        return mean_estimate(self.rows.numpy(), self.units)

    def label(self, number: int) -> str:
        """A segment's name, of the original's weights."""
        return self.original.segments[number].label

    def originals(self) -> tuple[Tensor, list[float], list[float]]:
        """KL of every row of the original side alone, and how far each segment of the compiled one is from it.

        The second is |compiled(x) - original(x)|² / |original(x)|² on the original's own stream x: what the segment
        does wrong by itself. It says where to look first, and nothing about what that costs. The third is the same over
        the power of the whole stream behind the segment, a mean of tokens: the noise that later layers read.
        """
        errors, noise = [0.0] * self.count, [0.0] * self.count
        logits = []
        for lane in self.lanes:
            streams = self._streams(self.original, lane)
            logits.append(streams[-1])
            for number in range(self.count):
                before = streams[number - 1] if number else None
                own = self.compiled.run(number, lane, before).reshape(-1).double()
                right = streams[number].reshape(-1).double()
                base = before.reshape(-1).double() if before is not None else None
                signal = right if base is None or base.numel() != right.numel() else right - base
                error = float((own - right).square().sum() / signal.square().sum().clamp(min=1e-30))
                errors[number] += error / len(self.lanes)
                tokens = streams[number].double().flatten(0, -2)
                wrong = (own.view_as(tokens) - tokens).square().sum(-1)
                heard = (wrong / tokens.square().sum(-1).clamp(min=1e-30)).mean()
                noise[number] += float(heard) / len(self.lanes)
        return self.reference.divergences(logits), errors, noise

    def probe(self, back: Collection[int] = (), put: Put | None = None) -> Effect:
        """One measurement: these segments run on the original's side, and some nodes call something else."""
        self.probes += 1
        rows = self.reference.divergences([self._logits(lane, frozenset(back), put) for lane in self.lanes])
        loss = float(self.rows.mean())
        recovered = mean_estimate((self.rows - rows).numpy(), self.units)
        return Effect(recovered, float(rows.mean()), recovered.value / loss if loss else 0.0)

    def _streams(self, side: Side, lane: int) -> list[Tensor]:
        """What stands behind every segment when all run on one side."""
        found: list[Tensor] = []
        for number in range(len(side.segments)):
            found.append(side.run(number, lane, found[-1] if found else None))
        return found

    def _logits(self, lane: int, back: frozenset[int], put: Put | None) -> Tensor:
        touched = set(back)
        for number, segment in enumerate(self.compiled.segments):
            if put and any(self._touches(node, put) for node in segment.nodes):
                touched.add(number)
        if not touched:
            return self.streams[lane][-1]
        first = min(touched)
        stream: Tensor | None = self.streams[lane][first - 1] if first else None
        for number in range(first, self.count):
            side = self.original if number in back else self.compiled
            stream = side.run(number, lane, stream, None if number in back else put)
        assert stream is not None
        return stream

    @staticmethod
    def _touches(node: Any, put: Put) -> bool:
        return node in put or any(n in put for n in node.all_input_nodes)


def reference_of(logits: Sequence[Tensor]) -> Reference:
    """The original's logits as what is measured against."""
    with torch.no_grad():
        return Reference(logits)
