"""Plants one-layer faults and writes whether `blame` and `bisect` name them: benchmarks/results/blame-<date>.md.

`python -m tools.blame [--only TEXT] [--record FILE] [--folder DIR] [--out FILE]`. The record is JSON lines; what is in
it already is not run again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from optcc.compile.bisect import bisect
from optcc.compile.blame import BlameOptions, blame_recipe
from optcc.compile.progress import Silent
from optcc.host import read_host
from optcc.recipe import load_recipe
from tests import zoo
from tools.demo_models import model_path
from tools.prove import ROOT, revision

FAULTY = ROOT / "tests" / "unit" / "proof" / "faulty.py"
REAL = "smollm2"
_TINY = """
target: {backend: reference, threads: 1}
check: {tokens: 64, window: 32, limits: {kl: LIMIT, top1: 0.1, nll: 1, greedy: 0}}
"""
_GOOD = {"int8": "int8-g64-a8", "int4": "int4-g64-a8"}
_LIMITS = {"int8": "0.05", "int4": "0.5"}
"""Nats per token that packing may cost a tiny random model."""
_STEADY = ("gemma2", "olmo2")
"""Models whose branches are normalized behind too: packing costs them a hundredth of that."""


@dataclass(frozen=True)
class Case:
    """One fault of one layer.

    Attributes:
        model: of the zoo, or REAL.
        layer: what the answer must name, as `layers.1.`.
        weight: that was spoilt; empty where none was.
        fault: a pass of faulty.py with its options, or empty for a weight of three levels.
        stage: where the pass stands: `quantize` before or behind packing, or `fuse`.
        base: what all other weights are packed in.
    """

    model: str
    layer: str
    weight: str = ""
    fault: str = ""
    stage: str = "behind"
    base: str = "int8"

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.fault or 'three levels'} {self.weight or self.layer}".strip()

    def recipe(self, *, planted: bool = True) -> str:
        """The YAML, with the fault or without."""
        good = f"quantize.linear: {{scheme: {_GOOD[self.base]}"
        linear = [good + "}"]
        faulty = (
            [f"'./faulty.py:{self.fault.split(maxsplit=1)[0]}': {{{self._options()}}}"] if self.fault else []
        )
        if not planted:
            faulty = []
        elif not self.fault:
            linear = [
                f"{good}, skip: [{self.weight}]}}",
                f"quantize.linear: {{scheme: ternary-g64, only: [{self.weight}]}}",
            ]
        stages = {"quantize": [*faulty, *linear] if self.stage == "before" else linear}
        if self.stage == "behind":
            stages["quantize"] = [*linear, *faulty]
        if self.stage == "fuse":
            stages["fuse"] = ["fuse.dequant-linear", *faulty, "fuse.gated-mlp", "fuse.qkv"]
        passes = "".join(
            f"\n  {stage}:" + "".join(f"\n    - {entry}" for entry in entries)
            for stage, entries in stages.items()
        )
        limit = "0.002" if self.model in _STEADY else _LIMITS[self.base]
        tiny = _TINY.replace("LIMIT", limit) if self.model != REAL else ""
        return f"version: 1\nextends: cpu-int8{tiny}\npasses:{passes}\n"

    def _options(self) -> str:
        given = self.fault.split(maxsplit=1)[1:]
        return ", ".join([*([f"weight: {self.weight}"] if self.weight else []), *given])


def _down(layer: int) -> str:
    return f"model.layers.{layer}.mlp.down_proj.weight"


CASES = (
    Case("llama", "layers.0.", "model.layers.0.self_attn.v_proj.weight"),
    Case("llama", "layers.1.", _down(1)),
    Case("llama", "layers.1.", "model.layers.1.self_attn.o_proj.weight", "DoubleScale"),
    Case("llama", "layers.2.", "model.layers.2.mlp.gate_proj.weight", "DoubleScale factor: 0.5"),
    Case("llama", "layers.1.", "", "SwapGateUp layer: 1", "before"),
    Case("llama", "layers.1.", "", "Epsilon number: 2, eps: 30", "fuse"),
    Case("qwen2", "layers.2.", "model.layers.2.mlp.up_proj.weight"),
    Case("qwen2", "layers.0.", _down(0), "DoubleScale factor: 1.5"),
    Case("mistral", "layers.1.", "model.layers.1.self_attn.q_proj.weight", "DoubleScale"),
    Case("mistral", "layers.2.", _down(2), "Scaled factor: 1.5", "before"),
    Case("gemma2", "layers.1.", _down(1)),
    Case("gemma2", "layers.0.", "model.layers.0.self_attn.v_proj.weight"),
    Case("olmo2", "layers.2.", "model.layers.2.mlp.up_proj.weight"),
    Case("qwen3", "layers.0.", "model.layers.0.self_attn.v_proj.weight", "Scaled factor: 3", "before"),
    Case("llama", "layers.1.", _down(1), "DoubleScale", "behind", "int4"),
    Case(REAL, "layers.23.", "model.layers.23.self_attn.v_proj.weight"),
    Case(REAL, "layers.7.", _down(7), "DoubleScale"),
    Case(REAL, "layers.11.", "", "SwapGateUp layer: 11", "before"),
    Case(REAL, "layers.18.", "model.layers.18.mlp.up_proj.weight", "DoubleScale factor: 0.5"),
)


@dataclass(frozen=True)
class Found:
    """What was said about one case.

    Attributes:
        loss: KL(original || compiled), nats per token.
        blamed: the first carrier.
        layer, weight: whether the right ones were named; `weight` is None where no weight was spoilt.
        probes: that blame took to find it; `all_probes` with those for the patch.
        recovered: share of the loss that the patch recovers, measured; None without a patch.
        clean: the loss without the fault, which no patch of the fault recovers; None without a patch.
        bisected: the pass that bisect named, and whether it is right, with its questions.
        blame_seconds, bisect_seconds: elapsed.
    """

    model: str
    name: str
    loss: float
    blamed: str
    layer: bool
    weight: bool | None
    probes: int
    all_probes: int
    recovered: float | None
    clean: float | None
    bisected: str
    right: bool
    questions: int
    blame_seconds: float
    bisect_seconds: float

    @property
    def of_the_fault(self) -> float | None:
        """Share of what the fault cost that the patch recovers."""
        if self.recovered is None or self.clean is None:
            return None
        return self.recovered * self.loss / (self.loss - self.clean)


def judge(case: Case, model: str, folder: Path) -> Found:
    """Plant, blame, bisect; bisect first, which leaves the passes' outputs in the cache as a user's compile would."""
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    shutil.copy(FAULTY, work / "faulty.py")
    path = work / "recipe.yaml"
    path.write_text(case.recipe())
    recipe = load_recipe(str(path))
    cache = folder / f"cache-{case.model}"
    began = time.perf_counter()
    limit = 0.03 if case.model == REAL and not case.fault else None
    split = bisect(model, recipe, str(path), "kl", limit, cache, Silent())
    middle = time.perf_counter()
    options = BlameOptions(cache=cache) if case.model == REAL else BlameOptions(window=64, cache=cache)
    blamed = blame_recipe(model, recipe, str(path), options)
    end = time.perf_counter()
    clean = None
    if blamed.patch:
        path.write_text(case.recipe(planted=False))
        clean = blame_recipe(model, load_recipe(str(path)), str(path), options).loss.value
    first = blamed.carriers[0].name if blamed.carriers else ""
    tensors = [c.name for c in blamed.carriers if c.kind == "tensor"]
    wanted = case.fault.split(maxsplit=1)[0] if case.fault else "ternary-g64"
    patch = blamed.patch.effect if blamed.patch else None
    searched = next((int(n.split()[0]) for n in blamed.notes if "measurements to find" in n), blamed.probes)
    return Found(
        case.model,
        case.name,
        blamed.loss.value,
        first,
        case.layer in f"{first}.",
        (tensors[:1] == [case.weight]) if case.weight and case.stage == "behind" else None,
        searched,
        blamed.probes,
        patch.share if patch else None,
        clean,
        split.step or "",
        wanted in (split.step or ""),
        len(split.probes),
        round(end - middle, 1),
        round(middle - began, 1),
    )


def page(found: list[Found], commit: str, remarks: str) -> str:
    """The results as a page."""
    host = read_host(ROOT)
    layers, passes = sum(f.layer for f in found), sum(f.right for f in found)
    patches = [f.recovered for f in found if f.recovered is not None]
    of_faults = [f.of_the_fault for f in found if f.of_the_fault is not None]
    real = [f for f in found if f.model == REAL]
    lines = [
        f"# One-layer faults: blame and bisect, {date.today()}",
        "",
        f"Commit {commit}; {host.cores} cores, {host.cpu}; {host.python}. Repeat with `python -m tools.blame`.",
        "",
        f"- **Layer** named by `optcc blame`: {layers} of {len(found)}.",
        f"- **Pass** named by `optcc bisect`: {passes} of {len(found)}.",
        (
            f"- **Measurements**: median {statistics.median(f.probes for f in found)} of blame to find it "
            f"({statistics.median(f.all_probes for f in found)} with those of the patch), "
            f"{statistics.median(f.questions for f in found)} of bisect."
        ),
        (
            f"- **Patches**: {len(patches)}; the worst recovers {min(patches, default=0):.0%}, "
            f"{sum(p >= 0.8 for p in patches)} recover at least 80 % of the loss. "
            f"Of what the fault alone cost, {sum(p >= 0.8 for p in of_faults)} do; a patch may recover some of the "
            f"scheme's own loss too, so that share may be over 100 %."
        ),
    ]
    if real:
        lines.append(
            f"- **Time** on SmolLM2: blame {max(f.blame_seconds for f in real):.0f} s at most, bisect "
            f"{max(f.bisect_seconds for f in real):.0f} s at most; bisect runs first and fills the cache."
        )
    lines += [remarks] if remarks else []
    lines += [
        "",
        (
            "| model | fault | loss, nats | blamed | layer | weight | measurements | patch recovers "
            "| of the fault's own | bisect names | questions | blame, s | bisect, s |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for f in found:
        weight = "–" if f.weight is None else "right" if f.weight else "**wrong**"
        recovered, own = ("–" if x is None else f"{x:.0%}" for x in (f.recovered, f.of_the_fault))
        named = f"`{f.bisected[:60]}`" if f.right else f"**wrong**: `{f.bisected[:60]}`"
        lines.append(
            f"| {f.model} | {f.name} | {f.loss:.3g} | {f.blamed} | {'right' if f.layer else '**wrong**'} | {weight} | "
            f"{f.probes} ({f.all_probes}) | {recovered} | {own} | {named} | {f.questions} | {f.blame_seconds} "
            f"| {f.bisect_seconds} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """0 if every layer and pass was named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of a case's model and name")
    parser.add_argument("--record", type=Path, help="JSON lines of what has been run")
    parser.add_argument("--folder", type=Path, help="where models and passes are kept")
    parser.add_argument("--remarks", default="", help="a line for the page: what else ran")
    parser.add_argument("--out", type=Path, help="the page")
    given = parser.parse_args()
    found: list[Found] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        record = given.record or Path(scratch) / "record.jsonl"
        lines = record.read_text().splitlines() if record.exists() else []
        known = {(f.model, f.name): f for f in (Found(**json.loads(line)) for line in lines)}
        for case in CASES:
            if given.only not in f"{case.model} {case.name}":
                continue
            one = known.get((case.model, case.name))
            if one is None:
                one = judge(case, _model(case.model, folder), folder)
                with record.open("a") as file:
                    file.write(json.dumps(asdict(one)) + "\n")
            found.append(one)
            print(one, flush=True)
    if given.out:
        given.out.write_text(page(found, revision(), given.remarks))
    return int(not all(f.layer and f.right for f in found))


def _model(name: str, folder: Path) -> str:
    if name == REAL:
        return str(model_path(REAL))
    path = folder / name
    return str(path if path.exists() else zoo.save(name, path))


if __name__ == "__main__":
    raise SystemExit(main())
