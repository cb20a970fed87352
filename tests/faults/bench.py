"""Compiles tiny models with faults in them, at the presets' own limits, and notes what caught each."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optcc.compile import CompileOptions, CompileResult, compile_model
from optcc.compile.cache import PassCache
from optcc.compile.original import Original
from optcc.errors import OptccError
from optcc.ir.module import Module
from optcc.pm.instruments import PassRecord
from optcc.recipe import Recipe, load_recipe
from tests.faults.fault import Fault, Outcome
from tests.faults.models import write_model
from tests.faults.plant import Planting

_INT4 = """
version: 1
extends: cpu-int4
passes:
  quantize:
    - quantize.linear: {scheme: int8-g64-a8, part: vocabulary}
    - quantize.linear: {scheme: int4-g64-a8, part: body, search: 20}
    - quantize.kv: {type: int8}
"""
RECIPES = ("fp32", "int8", "int4", "int4-gptq", "asym", "kv8")
"""The presets cpu-fp32 and cpu-int8; cpu-int4 with rounding to nearest in place of GPTQ, with its limits; cpu-int4; and
int4 with zero points; cpu-int8 with an int8 KV cache."""
_KV8 = """
version: 1
extends: cpu-int8
passes:
  quantize:
    - quantize.linear: {scheme: int8-g64-a8}
    - quantize.kv: {type: int8}
"""
_ASYM = _INT4.replace("int4-g64-a8", "int4-g64-asym-a8")
_SETTINGS = ("target.threads=1", "check.window=128")


class Bench:
    """Models and recipes in a folder; each model is made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[tuple[str, str, int], Outcome] = {}
        self.said: dict[Path, dict[object, Any]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "int4.yaml").write_text(_INT4)
        (folder / "asym.yaml").write_text(_ASYM)
        (folder / "kv8.yaml").write_text(_KV8)

    def model(self, name: str, seed: int = 0) -> Path:
        """A directory as transformers writes it."""
        folder = self.folder / f"{name}-{seed}"
        return folder if folder.exists() else write_model(name, folder, seed)

    def recipe(self, name: str, *settings: str) -> Recipe:
        """One of RECIPES, at its own limits."""
        presets = {"fp32": "cpu-fp32", "int8": "cpu-int8", "int4-gptq": "cpu-int4"}
        where = presets.get(name) or str(self.folder / f"{name}.yaml")
        return load_recipe(where, [*_SETTINGS, *settings])

    def compile(self, model: Path, recipe: Recipe) -> CompileResult:
        """Compile, every pass anew; only the capture of the model is kept."""
        cache = self.folder / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        shutil.copytree(self._capture(model), cache)
        options = CompileOptions(cache=cache, speed=False)
        with pytest.MonkeyPatch.context() as patch:
            _remember(patch, self.said.setdefault(model, {}))
            return compile_model(str(model), recipe, self.folder / "out", options)

    def _capture(self, model: Path) -> Path:
        """A cache that holds the captured model and no pass."""
        kept = model.with_name(f"{model.name}-captured")
        if not kept.exists():
            with pytest.MonkeyPatch.context() as patch:
                save = PassCache.save

                def first(
                    self: PassCache, key: str, module: Module, rows: list[PassRecord], facts: Any
                ) -> None:
                    if not rows:
                        save(self, key, module, rows, facts)

                patch.setattr(PassCache, "save", first)
                off = self.recipe("fp32", "check.enabled=false")
                compile_model(str(model), off, self.folder / "out", CompileOptions(cache=kept, speed=False))
        return kept

    def judge(self, fault: Fault, recipe: str, seed: int = 0) -> Outcome:
        """Plant a fault, compile, and say what caught it.

        The same compile without the fault must be good: where everything fails, nothing was caught.
        """
        clean = self.clean(fault.model, recipe, seed)
        assert not clean.caught, f"{clean.model} {recipe} fails without a fault: {clean.by}: {clean.figure}"
        return self._judge(fault.name, fault.model, fault.plant, recipe, seed)

    def clean(self, model: str, recipe: str, seed: int = 0) -> Outcome:
        """Compile without a fault, once; caught is anything but a pass."""
        key = (model, recipe, seed)
        if key not in self.known:
            self.known[key] = self._judge("", model, lambda p: None, recipe, seed)
        return self.known[key]

    def _judge(
        self, name: str, model_name: str, plant: Callable[[Planting], None], recipe: str, seed: int
    ) -> Outcome:
        model = self.model(model_name, seed)
        self._capture(model)
        began = time.perf_counter()
        with pytest.MonkeyPatch.context() as patch:
            planting = Planting(patch)
            plant(planting)
            made = self.recipe(recipe)
            try:
                result = self.compile(model, made)
            except OptccError as error:
                found = (True, error.code, error.what)
            except Exception as error:  # a crash is no success
                found = (True, type(error).__name__, str(error))
            else:
                found = verdict(result)
        if planting.broken:
            raise planting.broken
        caught, by, figure = found
        caught = caught or (not name and by != "passed")
        seconds = time.perf_counter() - began
        figure = " ".join(figure.replace(str(self.folder), "").split())[:160]
        return Outcome(name, model_name, recipe, seed, caught, by, figure, round(seconds, 1))


def _remember(patch: pytest.MonkeyPatch, said: dict[object, Any]) -> None:
    """Run the original once for each input; no fault strikes it."""
    logits, answer = Original.logits, Original.answer

    def same_logits(self: Original, window: Any) -> Any:
        key = window.tobytes()
        if key not in said:
            said[key] = list(logits(self, window))
        return iter(said[key])

    def same_answer(self: Original, prompts: Any, tokens: int, eos: Any) -> Any:
        key = repr((prompts, tokens, eos))
        if key not in said:
            said[key] = answer(self, prompts, tokens, eos)
        return said[key]

    patch.setattr(Original, "logits", same_logits)
    patch.setattr(Original, "answer", same_answer)


def verdict(result: CompileResult) -> tuple[bool, str, str]:
    """Whether a limit failed, which metrics, and their figures."""
    check = result.report.check
    assert check is not None
    failed = [v for v in check["gate"]["verdicts"] if v["outcome"] == "fail"]
    metrics = list(dict.fromkeys(v["metric"] for v in failed))
    worst = {
        m: max((_figure(v) for v in failed if v["metric"] == m), key=lambda x: x != x or x) for m in metrics
    }
    if result.ok:
        return False, "passed", closest(result)
    if not failed:
        undecided = [v["reason"] for v in check["gate"]["verdicts"] if v["outcome"] != "pass"]
        return False, "undecided", "; ".join(undecided)
    return True, " ".join(metrics), ", ".join(f"{m} {x:.3g}" for m, x in worst.items())


def closest(result: CompileResult) -> str:
    """The measured value of every limit, for a compile that passed."""
    check = result.report.check
    assert check is not None
    worst: dict[str, tuple[float, float]] = {}
    for v in check["gate"]["verdicts"]:
        low = v["direction"] == "at-least"
        value = _figure(v)
        before = worst.get(v["metric"], (value, 0.0))[0]
        worst[v["metric"]] = (min(before, value) if low else max(before, value), v["limit"])
    return ", ".join(f"{m} {x:.3g} of {limit:.3g}" for m, (x, limit) in worst.items())


def _figure(verdict: dict[str, object]) -> float:
    measured = verdict["measured"]
    value = measured["value"] if isinstance(measured, dict) else None
    return float("nan") if value is None else float(value)
