"""The gate: the *lowered artifact* against the original model, on text, with limits.

What is compared is what will be served, opened from its files by its backend; never a module in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from optcc.accuracy.compare import compare_decoder, compare_greedy
from optcc.accuracy.data import TextSet
from optcc.accuracy.functions import compare_function
from optcc.accuracy.gates import LINKS, GateReport, judge, parse_limits
from optcc.accuracy.intervals import Estimate
from optcc.accuracy.reports import ComparisonReport, FunctionReport
from optcc.compile.arrays import arrays_digest
from optcc.compile.links import Links, measure_links
from optcc.compile.pair import Pair
from optcc.compile.reading import require_same_reading
from optcc.compile.samples import function_inputs, random_windows
from optcc.compile.served import answer
from optcc.compile.serving import Asked
from optcc.compile.texts import decoder_texts, require_new
from optcc.recipe import CheckOptions
from optcc.runtime.executor import Executor
from optcc.runtime.score import score_windows

_GREEDY_PROMPTS = 8
_GREEDY_START = 32
_GREEDY_TOKENS = 24
_STEP_TOKENS = 256

Array = npt.NDArray[Any]
Watch = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Checked:
    """What the gate found.

    Attributes:
        report: the measurements.
        gate: the verdicts.
        notes: how the texts were made, when not from the recipe's data; what could not be measured.
        links: of a decoder, the steps from original to artifact, each by itself.
    """

    report: ComparisonReport | FunctionReport
    gate: GateReport
    notes: tuple[str, ...] = field(default=())
    links: Links | None = None

    @property
    def status(self) -> str:
        """`ok`, or `failed` when a limit failed or is undecided."""
        return "ok" if self.gate.status == "ok" else "failed"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "measurements": self.report.to_json(),
            "gate": self.gate.to_json(),
            "links": None if self.links is None else self.links.to_json(),
            "notes": list(self.notes),
        }


def check_decoder(
    pair: Pair,
    options: CheckOptions,
    limits: Mapping[str, float],
    watch: Watch,
    base: Path | None = None,
    learned: Sequence[str] = (),
) -> Checked:
    """Compare logits on every text, greedy answers, and the steps from original to artifact one by one.

    A model without a tokenizer is compared on windows of random tokens; one without a chat template reads
    conversations as plain text.

    Args:
        pair: original and artifact.
        options: texts, sizes.
        limits: metric to limit, the scheme's defaults already merged in.
        watch: called with (text, windows done, windows in all).
        base: directory that data files are relative to.
        learned: marks of the text that passes learned from.

    Raises:
        RecipeField: an unknown metric.
        BadCheckData: a text is missing, too short, repeats itself, or holds what passes learned from.
        TokenizerDiffers: the artifact reads or writes text in another way than the model.
    """
    parsed = parse_limits(limits)
    original, executor = pair.original, pair.decoder
    window = min(options.window, executor.spec.max_context)
    notes: tuple[str, ...] = ()
    if pair.tools is None:
        sets = [random_windows(executor.spec.vocab, options.tokens, window)]
        notes = ("the model has no tokenizer: random tokens were compared instead of text",)
    else:
        if unread := require_same_reading(pair.tools, pair.subject.source, executor.spec.eos_token_ids):
            notes = (unread,)
        digest = pair.subject.source.digest
        sets = decoder_texts(pair.tools, options, window, "check", digest, lambda: original, base)

    require_new(sets, learned)

    def artifact(ids: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.float32]]:
        return score_windows(executor, [ids.tolist()], max_step_tokens=_STEP_TOKENS)

    report = compare_decoder(original.logits, artifact, sets, progress=watch)
    asked = _asked(executor, sets, window)
    expected = original.answer(asked.prompts, asked.tokens, executor.spec.eos_token_ids)
    report = report.with_greedy(compare_greedy(expected, asked.answers))
    links = measure_links(pair, sets, asked)
    found = links.measured
    held = [
        p for p in parsed if p.metric not in LINKS or any(p.metric in metrics for metrics in found.values())
    ]
    gate = judge(held, {**report.measurements(), **found}, report.tokens())
    return Checked(report, gate, (*notes, *links.notes), links)


def _asked(executor: Executor, sets: Sequence[TextSet], window: int) -> Asked:
    """The engine's greedy answers to beginnings of windows, taken in turn from the texts."""
    windows = [w for group in zip(*(s.windows for s in sets), strict=False) for w in group]
    start = max(1, min(_GREEDY_START, window // 2))
    tokens = max(1, min(_GREEDY_TOKENS, window - start))
    # Of different lengths, so that answers begin in different steps.
    prompts: list[list[int]] = [
        [int(t) for t in w[: max(1, start - i)]]
        for i, w in enumerate(windows[:_GREEDY_PROMPTS])
        if len(w) >= start
    ]
    return Asked(prompts, answer(executor, prompts, tokens), tokens)


def check_function(
    pair: Pair, options: CheckOptions, limits: Mapping[str, float], watch: Watch, base: Path | None = None
) -> Checked:
    """Compare named outputs on what `function_inputs` finds for the model.

    Arguments as of `check_decoder`. Outputs that `options.classes` names hold class scores, for which top-1 agreement
    is measured.
    """
    parsed = parse_limits(limits)
    io = pair.manifest.spec
    outputs = list(io["outputs"])
    tokenizer = pair.tools.tokenizer if pair.tools else None
    inputs = function_inputs(pair.subject.source, io, tokenizer, options, base)

    def counted() -> Iterator[Mapping[str, Array]]:
        for index, batch in enumerate(inputs.batches):
            yield batch
            watch("examples", index + 1, len(inputs.batches))

    report = compare_function(
        lambda x: pair.original.call(x, outputs),
        pair.function.call,
        counted(),
        class_outputs=options.classes,
    )
    report = replace(report, inputs_digest=arrays_digest(inputs.batches))
    measured: dict[str, Mapping[str, Estimate]] = dict(report.measurements())
    return Checked(report, judge(parsed, measured), (inputs.note,) if inputs.note else ())
