"""What is asked of a module between two passes: how far it is from another one, whether it runs, how fast it is."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from optcc.artifact import TensorSource
from optcc.artifact.weights import write_safetensors
from optcc.compile.points import Points
from optcc.compile.proof.data import ProofData, proof_data
from optcc.compile.proof.hold import hold
from optcc.compile.proof.measure import Figure, Outputs, measure
from optcc.compile.proof.run import run_all
from optcc.compile.spec import manifest_spec
from optcc.errors import OptccError
from optcc.ir.module import Module
from optcc.ir.text import module_text
from optcc.pm.context import Context
from optcc.pm.contract import EXACT, Contract, kl, tolerance
from optcc.pm.passes import Pass
from optcc.pm.run import run_pass
from optcc.runtime.engine import Engine
from optcc.runtime.request import StopConditions

_PROMPT, _TOKENS, _ROUNDS = 32, 16, 3


@dataclass(frozen=True)
class Probe:
    """One question and its answer.

    Attributes:
        point: how many passes had run.
        since: the point it is held against; None for none.
        bad: the answer.
        told: what was measured, for people.
        value: the number behind it, where there is one.
    """

    point: int
    since: int | None
    bad: bool
    told: str
    value: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        value = self.value if self.value is not None and math.isfinite(self.value) else None
        return {"point": self.point, "since": self.since, "bad": self.bad, "told": self.told, "value": value}


class Prober:
    """Asks, and counts the modules that had to be run; each is run once."""

    def __init__(self, points: Points) -> None:
        self.points = points
        self.probes: list[Probe] = []
        self.runs = 0
        self._outputs: dict[int, Outputs] = {}
        self._data: ProofData | None = None

    @property
    def data(self) -> ProofData:
        """A few windows of the recipe's check texts, or examples."""
        if self._data is None:
            p = self.points
            self._data = proof_data(p.source, p.load, p.at(0), p.recipe.check, p.recipe.base)
        return self._data

    def outputs(self, point: int) -> Outputs:
        """What the module computes; counted once, and not for the original."""
        if point not in self._outputs:
            self._outputs[point] = run_all(self.points.at(point), self.data.batches)
            self.runs += point > 0
        return self._outputs[point]

    def forget(self, keep: Sequence[int]) -> None:
        """Drop outputs that no later question needs."""
        self._outputs = {p: o for p, o in self._outputs.items() if p in keep}

    def promise(self, step: Pass) -> Contract:
        """A pass's contract; a budget left open is the recipe's limit, else its schemes'."""
        promised = step.promise(self.points.recipe.base)
        if promised.kind != "kl" or step.contract.bound is not None:
            return promised
        limits = self.points.limits()
        if self.data.units is None:
            return kl(10 ** (-limits["sqnr"] / 10) if "sqnr" in limits else None)
        return kl(limits.get("kl", promised.bound))

    def held(self, since: int, point: int) -> Probe:
        """Whether the passes between two points kept their promises, all together.

        Rounding hardly adds up, so a run of passes that only round is held to the loosest of them.
        """
        contracts = [self.promise(step) for step in self.points.steps[since:point]]
        bounds = [c.bound for c in contracts]
        if any(c.kind == "kl" for c in contracts):
            known = [b for c, b in zip(contracts, bounds, strict=True) if c.kind == "kl"]
            contract = kl(None if None in known else sum(b for b in known if b is not None))
        elif all(c.kind == "exact" for c in contracts):
            contract = EXACT
        else:
            contract = tolerance(max(b for b in bounds if b is not None))
        both = (self.outputs(since), self.outputs(point))
        modules = self.points.at(since), self.points.at(point)
        figure = hold(contract, *modules, both, self.data, self.points.limits().get("kl"))
        bad = figure.outcome == "fail"  # what is undecided within its interval is no fault yet
        return self._note(Probe(point, since, bad, _told(figure), figure.estimate.value))

    def beyond(self, point: int, limit: float) -> Probe:
        """Whether a module is further from the original than a limit."""
        figure = measure(kl(limit), self.outputs(0), self.outputs(point), self.data.units)
        value = figure.estimate.value
        return self._note(Probe(point, 0, math.isnan(value) or value > limit, _told(figure), value))

    def fails(self, point: int) -> Probe:
        """Whether a module can't be run by the interpreter, or computes NaN where the original doesn't."""
        clean = all(not bool(v.isnan().any()) for batch in self.outputs(0) for v in batch.values())
        try:
            outputs = self.outputs(point)
        except OptccError as error:
            return self._note(Probe(point, None, True, f"{error.code}: {error.what}"))
        except Exception as error:
            return self._note(Probe(point, None, True, f"{type(error).__name__}: {error}"))
        broken = [
            n for batch in outputs for n, v in batch.items() if v.is_floating_point() and v.isnan().any()
        ]
        bad = clean and bool(broken)
        return self._note(Probe(point, None, bad, f"{broken[0]} is NaN" if bad else "runs"))

    def lowering_fails(self, point: int) -> Probe:
        """Whether the backend can't compile or run what the passes up to here leave, served."""
        try:
            speed = self._speed(point)
        except OptccError as error:
            return self._note(Probe(point, None, True, f"{error.code}: {error.what}"))
        except Exception as error:
            return self._note(Probe(point, None, True, f"{type(error).__name__}: {error}"))
        return self._note(Probe(point, None, False, f"runs at {speed:.1f} per second"))

    def speed(self, point: int, limit: float) -> Probe:
        """Whether the lowered module is slower than a limit, per second."""
        value = self._speed(point)
        return self._note(Probe(point, None, value < limit, f"{value:.1f} per second", value))

    def _note(self, probe: Probe) -> Probe:
        self.probes.append(probe)
        return probe

    def _speed(self, point: int) -> float:
        """Tokens per second of one request (calls per second of a function), median of three rounds after a warm-up.

        Passes of the stages `serve` and `lower` that have not run by this point run too: without them nothing can be
        served.
        """
        points = self.points
        module = points.at(point).clone()
        ctx = Context(points.backend.name, points.threads, base=points.recipe.base)
        for index in range(point, len(points.steps)):
            if points.plan.stage_of(index) in ("serve", "lower"):
                run_pass(module, points.steps[index], ctx, [])
        with tempfile.TemporaryDirectory(prefix="optcc-bisect-") as folder:
            self.runs += 1
            return self._lowered(module, Path(folder))

    def _lowered(self, module: Module, root: Path) -> float:
        backend, threads = self.points.backend, self.points.threads
        spec = manifest_spec(module)
        stored = backend.plan_weights(module)
        tensors = [TensorSource(t.name, t.dtype, t.shape, t.read) for t in stored]
        spans = write_safetensors(root / "weights.safetensors", tensors)
        (root / "model.ir").write_text(module_text(module))
        backend.compile(module, root, spans)
        if module.attrs.get("kind") != "decoder":
            function = backend.open_function(root, spec, threads)
            batch = {name: value.numpy() for name, value in self.data.batches[0].items()}
            return median(_timed(lambda: function.call(batch)) for _ in range(_ROUNDS + 1))
        executor = backend.open_decoder(root, spec, threads)
        try:
            vocab, longest = executor.spec.vocab, executor.spec.max_context
            prompt_tokens = max(1, min(_PROMPT, longest // 2))
            tokens = max(2, min(_TOKENS, longest - prompt_tokens))
            prompt = np.random.Generator(np.random.Philox(5)).integers(0, vocab, prompt_tokens).tolist()
            engine = Engine(executor, blocks=executor.spec.blocks_for(prompt_tokens + tokens) + 1)
            stop = StopConditions(max_tokens=tokens, eos_token_ids=())
            rates = [
                tokens * _timed(lambda: engine.generate([prompt], stop=stop)) for _ in range(_ROUNDS + 1)
            ]
        finally:
            executor.close()
        return median(rates[1:])


def _timed(call: Any) -> float:
    """Calls per second."""
    began = time.perf_counter()
    with torch.inference_mode():
        call()
    return 1 / max(time.perf_counter() - began, 1e-9)


def _told(figure: Figure) -> str:
    words = {"moved": "of the deviation", "kl": "nats per token", "noise": "of the signal"}[figure.metric]
    bound = f", bound {figure.contract.bound:g}" if figure.contract.bound is not None else ""
    return f"{figure.output} {figure.estimate.value:.3g} {words}{bound}"
