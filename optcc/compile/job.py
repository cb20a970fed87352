"""The stages of one compile, and what they know of each other."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from optcc.accuracy.gates import Verdict
from optcc.artifact import ArtifactWriter, Manifest, TensorSource
from optcc.artifact.digest import sealed, sha256_file
from optcc.backends.protocol import Backend
from optcc.backends.registry import load_backend
from optcc.cache import cache_limit, default_cache, prune, using
from optcc.compile.cache import Entry, PassCache, next_key, source_digest, start_key, versions
from optcc.compile.calibrate import calibration, learned_marks, require_disjoint
from optcc.compile.check import check_pair
from optcc.compile.forms import require_forms
from optcc.compile.fusions import count_fusions
from optcc.compile.gate import Checked
from optcc.compile.ledger import Intent, Ledger, balance, intents, settle
from optcc.compile.lock import data_digests, inputs, make_lock, surroundings
from optcc.compile.manifests import make_manifest
from optcc.compile.pair import Pair, Subject, open_pair
from optcc.compile.plan import Plan, make_plan
from optcc.compile.preflight import backend_problems, recipe_problems
from optcc.compile.progress import Progress
from optcc.compile.proof import Prove, proof_data
from optcc.compile.proof.lowered import prove_lowered
from optcc.compile.proof.prove import proof_json
from optcc.compile.report import Command, Report
from optcc.compile.roofline import roofline
from optcc.compile.rows import ledger_rows
from optcc.compile.spec import manifest_spec
from optcc.compile.speed import judge_speed, measure_speed
from optcc.compile.survey import load_options, look
from optcc.errors import together
from optcc.files import writing
from optcc.frontend import ModelSource, capture, export_tokenizer, resolve
from optcc.frontend.lift import to_module
from optcc.frontend.origin import ORIGIN, origin_files
from optcc.host import host_facts, physical_cores
from optcc.ir.module import Module
from optcc.ir.text import module_text
from optcc.ir.weights import TensorRef, WeightStore
from optcc.memory import MemoryMeter, imports_left_alone, release
from optcc.pm.context import Context
from optcc.pm.instruments import Check, Diff, Dump, Instrument, Record
from optcc.pm.passes import Pass
from optcc.pm.pipeline import Pipeline
from optcc.pm.run import run_pass
from optcc.quant.weight_pass import PackingPass
from optcc.recipe import Recipe


@dataclass(frozen=True)
class CompileOptions:
    """What is not part of the recipe because it changes no result.

    Attributes:
        cache: where finished passes are kept; None keeps nothing.
        dump_ir: directory for numbered dumps of the module after every pass.
        diff: print what every pass changed to stderr.
        speed: measure tokens per second before and after.
        prove: hold every pass to its contract (`each`), every stage (`stages`), or only the artifact (`end`).
        command: what was asked for, for the report.
        model_name: what the manifest calls the model; None takes its own name.
        threads: instead of the recipe's; 0 leaves it to the recipe.
    """

    cache: Path | None = field(default_factory=default_cache)
    dump_ir: Path | None = None
    diff: bool = False
    speed: bool = True
    prove: Literal["each", "stages", "end"] = "end"
    command: Command | None = None
    model_name: str | None = None
    threads: int = 0


class Job:
    """One compile: the recipe, and what is known so far."""

    def __init__(
        self, recipe: Recipe, options: CompileOptions, progress: Progress, out: Path | None = None
    ) -> None:
        self.out = out
        self.recipe, self.options, self.progress = recipe, options, progress
        self.memory = MemoryMeter()
        self.record = Record(self.memory)
        self.cache = PassCache(options.cache)
        self.load = load_options(recipe)
        self.thread_count = self.options.threads or recipe.target.threads or physical_cores()
        self.began = self.clock = time.perf_counter()
        self.seconds: dict[str, float] = {}
        self.current = self.pipeline = ""
        self.original_bytes = 0
        self.intents: list[Intent] = []
        self.backend_notes: tuple[str, ...] = ()
        self.prover: Prove | None = None
        self.lowered: dict[str, Any] | None = None
        self.learned: dict[str, Any] | None = None
        self.marks: list[str] = []
        self.surveyed: dict[str, Any] | None = None
        self.originals = WeightStore()

    def stage(self, name: str) -> None:
        """Close the stage before and begin another; an empty name only closes."""
        now = time.perf_counter()
        if self.current:
            self.seconds[self.current] = round(self.seconds.get(self.current, 0.0) + now - self.clock, 3)
        self.clock = now
        if name != self.current:
            release()
            if name:
                self.progress.stage(name)
        self.memory.begin(name)
        self.current = name

    @contextmanager
    def caches(self) -> Iterator[None]:
        """Nothing is removed from the caches while they are used; after a success each is brought below its limit."""
        limit, roots = cache_limit(), {default_cache(), self.options.cache or default_cache()}
        with using(*roots):
            yield
        for root in roots:
            prune(root, limit)

    @contextmanager
    def threads(self) -> Iterator[None]:
        """A fixed thread count for the whole compile: part of what makes it repeatable."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.thread_count)
        try:
            with imports_left_alone(), self.memory.sampling():
                yield
        finally:
            torch.set_num_threads(before)

    def plan(self) -> tuple[Backend, Plan]:
        """The backend and all passes: what can be wrong with a recipe is found here."""
        self.stage("plan")
        backend = load_backend(self.recipe.target.backend)
        if problems := backend_problems(backend):
            raise together(problems)
        self.backend_notes = backend.probe().notes
        plan = make_plan(self.recipe, backend)
        if problems := recipe_problems(self.recipe, plan):
            raise together(problems)
        plan.default_limits(self.recipe.base)
        return backend, plan

    def resolve(self, model: str) -> ModelSource:
        """The model's files, checked and hashed."""
        self.stage("resolve")
        source = resolve(model, self.load)
        return dataclasses.replace(source, name=self.options.model_name or source.name)

    def passes(self, source: ModelSource, plan: Plan, backend: Backend, until: int | None = None) -> Module:
        """Capture and run every pass, or the first `until`, or take up where an earlier compile got to."""
        steps = plan.pipeline.passes[:until]
        keys = self._keys(source, steps)
        prove = self.prover = self._prove(source, keys, plan)
        self.pipeline = plan.text()
        module, done = self._resume(keys, source, plan, backend, prove)
        ctx = Context(backend.name, self.thread_count, base=self.recipe.base, progress=self.progress.step)
        instruments = self._instruments(prove)
        ready = plan.preflight_at
        for index in range(done, len(steps)):
            if index == ready:
                self._preflight(module, backend, plan, source)
            self.stage(plan.stage_of(index))
            known = self.cache.load(keys[index + 1]) if prove and not self._watched else None
            if known is not None and prove:
                module = self._take(known, steps[index], module, ctx, prove)
            else:
                if steps[index].calibrates and ctx.calibration is None:
                    require_disjoint(self.recipe)
                    ctx.calibration = calibration(
                        source, self.load, module, self.recipe.calibrate, self.recipe.base
                    )
                    self.learned = {"digest": ctx.calibration.digest, "tokens": ctx.calibration.tokens}
                    self.marks = learned_marks(ctx.calibration)
                ctx.scratch = self.cache.scratch(keys[index + 1])
                run_pass(module, steps[index], ctx, instruments, after=str(Pipeline(steps[:index])))
                self.intents = settle(self.intents, module)
            if prove and plan.ends_stage(index):
                prove.settle(module)
            self.cache.save(keys[index + 1], module, self.record.rows, self._facts())
            self.progress.step(str(steps[index]), index + 1, len(steps))
        if done <= ready == len(steps):
            self._preflight(module, backend, plan, source)
        return module

    def lower(
        self, backend: Backend, plan: Plan, module: Module, source: ModelSource, writer: ArtifactWriter
    ) -> tuple[Manifest, Ledger]:
        """Write weights, graph and tokenizer, and balance the ledger."""
        self.stage("lower")
        manifest_spec(module)  # refuses a decoder without a cache before anything is written
        stored = backend.plan_weights(module)
        spans = writer.write_weights([TensorSource(t.name, t.dtype, t.shape, t.read) for t in stored])
        sizes = {name: span.nbytes for name, span in spans.items()}
        weights = writer.path("weights.safetensors")
        padding = sum(t.padding for t in stored)
        ledger = balance(self.original_bytes, self.intents, module, sizes, weights, plan.kv(), padding)
        require_forms(module, plan.schemes(self.recipe.base).values(), weights)
        minimum = backend.compile(module, writer.root, spans)
        writer.write("model.ir", module_text(module))
        if source.directory is not None:
            with writing(writer.root / "tokenizer"):
                export_tokenizer(source, writer.root / "tokenizer")
            for name, path in origin_files(source.directory).items():
                writer.write(f"{ORIGIN}/{name}", path.read_bytes())
        moved = next(
            (step.moves for step in plan.stages["quantize"] if isinstance(step, PackingPass) and step.moves),
            "",
        )
        intended = {i.name: i.scheme for i in self.intents}
        rows = ledger_rows(backend.unpack(writer.root), self.originals, intended, stored, moved)
        ledger = dataclasses.replace(ledger, rows=tuple(rows))
        return writer.seal(make_manifest(module, self.recipe, plan, source, minimum)), ledger

    def prove(self, backend: Backend, module: Module, root: Path) -> None:
        """Hold every operator of the artifact to the final program, where passes are proven."""
        if self.prover is not None:
            self.stage("prove")
            self.lowered = prove_lowered(backend, module, root, self.prover.data, self.thread_count)

    def check(self, pair: Pair, plan: Plan) -> Checked | None:
        """Hold the artifact against the original; None when the recipe turns checking off."""
        if not self.recipe.check.enabled:
            return None
        self.stage("check")
        return check_pair(
            pair, self.recipe.check, self.limits(plan), self.progress.step, self.recipe.base, self.marks
        )

    def limits(self, plan: Plan) -> dict[str, float]:
        """The recipe's limits over its schemes' defaults."""
        defaults = {metric: limit.value for metric, limit in plan.default_limits(self.recipe.base).items()}
        return defaults | dict(self.recipe.check.limits)

    def speed(self, pair: Pair) -> dict[str, Any] | None:
        """Tokens per second of the original and of the artifact, in turn."""
        if not self.options.speed or pair.manifest.kind != "decoder":
            return None
        self.stage("speed")
        return measure_speed(pair)

    def fast_enough(self, pair: Pair) -> Verdict | None:
        """Whether the artifact is as fast as the recipe asks; None when it asks for nothing."""
        limit = self.recipe.check.speed
        if limit is None or not self.recipe.check.enabled or pair.manifest.kind != "decoder":
            return None
        self.stage("speed")
        return judge_speed(pair, limit)

    def roofline(
        self, pair: Pair, backend: Backend, ledger: Ledger, speed: dict[str, Any] | None
    ) -> dict[str, Any] | None:
        """Every operator against the machine's limits, where speed is measured."""
        if speed is None:
            return None
        self.stage("roofline")
        facts = {"original_bytes": ledger.original_bytes, "stored_bytes": ledger.stored_bytes}
        spec = pair.manifest.spec
        return roofline(pair.root, spec, backend, self.thread_count, speed=speed, ledger=facts)

    def report(
        self,
        module: Module,
        backend: Backend,
        ledger: Ledger,
        checked: Checked | None,
        speed: dict[str, Any] | None,
        fast: Verdict | None,
        roofline: dict[str, Any] | None,
        source: ModelSource,
        manifest: Manifest,
    ) -> Report:
        """Everything found out."""
        self.stage("")
        status = checked.status if checked else "unchecked"
        if fast and fast.outcome != "pass":
            status = "failed"
        artifact_bytes = sum(entry.bytes for entry in manifest.files.values()) + len(manifest.to_bytes())
        return Report(
            model=source.name,
            recipe=self.recipe.name,
            backend=backend.name,
            status=status,
            passes=self.record.rows,
            fusions=count_fusions(module, self.record.rows),
            ledger=ledger,
            check=checked.to_json() if checked else None,
            speed=speed,
            speed_limit=fast.to_json() if fast else None,
            roofline=roofline,
            preflight=self.surveyed,
            stages=self.seconds,
            seconds=round(time.perf_counter() - self.began, 3),
            peak_bytes=self.memory.whole.resident,
            anonymous_bytes=self.memory.whole.anonymous,
            memory=self.memory.stages,
            artifact_bytes=artifact_bytes,
            source_bytes=sum(p.stat().st_size for p in source.files),
            host={
                **host_facts(),
                "threads": self.thread_count,
                "versions": versions(),
                "backend": list(self.backend_notes),
            },
            digests={"model": source.digest, "sources": source_digest(), "artifact": manifest.digest},
            proof=proof_json(self.prover, self.options.prove, self.record, self.lowered),
            date=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            command=self.options.command,
        )

    def lock(
        self,
        reference: str,
        source: ModelSource,
        backend: Backend,
        plan: Plan,
        manifest: Manifest,
        checked: Checked | None,
    ) -> bytes:
        """Everything that the artifact's bytes depend on, sealed."""
        given = inputs(source, reference, self.recipe, plan, self.thread_count)
        return sealed(make_lock(manifest, given, surroundings(backend), data_digests(checked, self.learned)))

    def open(self, root: Path, manifest: Manifest, source: ModelSource) -> AbstractContextManager[Pair]:
        """Original and artifact, to be compared."""
        return open_pair(root, manifest, Subject(source, self.load), self.thread_count)

    def _instruments(self, prove: Prove | None) -> list[Instrument]:
        instruments: list[Instrument] = [*([prove] if prove else []), self.record, Check()]
        if self.options.dump_ir:
            instruments.append(Dump(self.options.dump_ir))
        if self.options.diff:
            instruments.append(Diff(sys.stderr))
        return instruments

    def _keys(self, source: ModelSource, steps: tuple[Pass, ...]) -> list[str]:
        """Cache keys of the captured module and of what every pass leaves."""
        facts = {
            "model": source.digest,
            "name": source.name,
            "load": asdict(self.load),
            "threads": self.thread_count,
        }
        keys = [start_key({**facts, "backend": self.recipe.target.backend})]
        for step in steps:
            learned = self._calibration_facts() if step.calibrates else None
            keys.append(next_key(keys[-1], step, self.recipe.base, learned))
        return keys

    def _calibration_facts(self) -> dict[str, object]:
        """Everything that decides what calibration data is: built-in texts come with Python."""
        options, base = self.recipe.calibrate, self.recipe.base
        files = [sha256_file(base / name) for name in options.data if (base / name).is_file()]
        return {**asdict(options), "files": files, "python": sys.version}

    @property
    def _watched(self) -> bool:
        """Whether somebody wants to see every pass run."""
        return bool(self.options.dump_ir or self.options.diff)

    def _prove(self, source: ModelSource, keys: list[str], plan: Plan) -> Prove | None:
        """The instrument that `--prove` asks for, with the data it runs on."""
        every = self.options.prove
        if every == "end":
            return None
        captured = self._captured(keys, source)
        data = proof_data(source, self.load, captured, self.recipe.check, self.recipe.base)
        return Prove(data, self.record, self.recipe.base, self.limits(plan), every)

    def _take(self, known: Entry, step: Pass, module: Module, ctx: Context, prove: Prove) -> Module:
        """A pass's result from the cache, proven all the same."""
        prove.before(step, module, ctx)
        self.record.add(known.records[-1])
        self.intents = settle(self.intents, known.module)
        self.learned, self.marks = known.facts["learned"], list(known.facts["marks"])
        prove.after(step, known.module, ctx, known.records[-1].changed)
        return known.module

    def _captured(self, keys: list[str], source: ModelSource) -> Module:
        """The module before any pass."""
        known = self.cache.load(keys[0])
        if known is not None:
            self.original_bytes = int(known.facts["original_bytes"])
            return known.module
        self.stage("capture")
        module = to_module(capture(source, self.load), self.cache.tensors)
        self.original_bytes = module.weight_bytes()
        self.cache.save(keys[0], module, [], self._facts())
        return module

    def _resume(
        self, keys: list[str], source: ModelSource, plan: Plan, backend: Backend, prove: Prove | None
    ) -> tuple[Module, int]:
        """The module after the last pass that is in the cache, and how many passes that is; else a fresh capture.

        Passes that are to be proven count only if they were. What preflight found depends on the passes that are still
        to come: behind other ones than the cached compile had it looks again.
        """
        ready = plan.preflight_at
        for done in () if self._watched else reversed(range(len(keys))):
            entry = self.cache.load(keys[done]) if self.cache.has(keys[done]) else None
            if entry is None or (prove and not prove.has_proven(entry.records)):
                continue
            known = done <= ready or entry.facts["pipeline"] == self.pipeline
            before = None if known else self.cache.load(keys[ready])
            if not known and before is None:
                continue
            self.record.rows.extend(entry.records)
            self.original_bytes = int(entry.facts["original_bytes"])
            self.learned, self.marks = entry.facts["learned"], list(entry.facts["marks"])
            if before is not None:
                self._preflight(before.module, backend, plan, source)
                self.intents = settle(self.intents, entry.module)
            else:
                self.intents = [Intent(**i) for i in entry.facts["intents"]]
                self.surveyed = entry.facts["preflight"]
                self.originals.refs = {n: TensorRef.from_json(r) for n, r in entry.facts["originals"].items()}
            return entry.module, done
        return self._captured(keys, source), 0

    def _preflight(self, module: Module, backend: Backend, plan: Plan, source: ModelSource) -> None:
        self.stage("preflight")
        found = look(module, self.original_bytes, source, self.recipe, plan, backend, out=self.out)
        if found.problems:
            raise together(found.problems)
        self.surveyed = found.to_json()
        self.originals = module.weights.clone()
        self.intents = intents(plan.stages["quantize"], module, self.recipe.base)

    def _facts(self) -> dict[str, Any]:
        return {
            "pipeline": self.pipeline,
            "original_bytes": self.original_bytes,
            "intents": [dataclasses.asdict(i) for i in self.intents],
            "learned": self.learned,
            "marks": self.marks,
            "preflight": self.surveyed,
            "originals": {name: ref.to_json() for name, ref in self.originals.refs.items()},
        }
