"""Run the original and the artifact over the same text and measure how far they are apart.

One window at a time: the original's logits of one window are kept, the artifact's are compared chunk by
chunk as they come, so that memory is one window of logits plus one chunk, whatever the vocabulary and the
number of tokens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from optcc.accuracy.data import TextSet
from optcc.accuracy.intervals import (
    make_units,
    mean_estimate,
    quantile_estimate,
    ratio_estimate,
)
from optcc.accuracy.metrics import (
    FloatArray,
    IntArray,
    RowMetrics,
    compare_rows,
    join_rows,
    matching_prefix,
    sum_rows,
)
from optcc.accuracy.positions import by_position
from optcc.accuracy.reports import ComparisonReport, GreedyReport, TextComparison, WindowSummary

# ids i64[S] -> chunks f32[rows, V] whose rows are positions 0..S-1 in order.
LogitsFn = Callable[[IntArray], Iterator[FloatArray]]
# name of the text, windows done, windows in all
Progress = Callable[[str, int, int], None]


class _Side:
    """One model and the time it took."""

    def __init__(self, name: str, logits: LogitsFn) -> None:
        self.name = name
        self.logits = logits
        self.seconds = 0.0

    def chunks(self, ids: IntArray) -> Iterator[FloatArray]:
        """The model's chunks, timed; ValueError unless they hold exactly one row per token."""
        rows = 0
        begin = time.perf_counter()
        for chunk in self.logits(ids):
            self.seconds += time.perf_counter() - begin
            rows += len(chunk)
            if chunk.ndim != 2 or rows > len(ids):
                raise ValueError(f"{self.name} gave logits {chunk.shape}, {rows} rows for {len(ids)} tokens")
            yield chunk
            begin = time.perf_counter()
        self.seconds += time.perf_counter() - begin
        if rows != len(ids):
            raise ValueError(f"{self.name} gave {rows} rows of logits for {len(ids)} tokens")


def compare_decoder(
    original: LogitsFn, artifact: LogitsFn, sets: Sequence[TextSet], *, progress: Progress | None = None
) -> ComparisonReport:
    """Compare two decoders on texts, window by window.

    Args:
        original: logits of the model as the user gave it.
        artifact: logits of what was compiled.
        sets: at least one text; every window has at least two tokens.
        progress: called after every window.

    Returns:
        Measurements per text and in total, with intervals; the wall time of each side.
    """
    if not sets:
        raise ValueError("no text to compare on")
    left, right = _Side("original", original), _Side("artifact", artifact)
    window_buffer: list[FloatArray] = []
    texts: list[TextComparison] = []
    measured: list[list[RowMetrics]] = []
    total, done = sum(len(s.windows) for s in sets), 0
    for text in sets:
        windows: list[RowMetrics] = []
        for ids in text.windows:
            windows.append(_compare_window(left, right, ids, window_buffer))
            done += 1
            if progress is not None:
                progress(text.name, done, total)
        measured.append(windows)
        texts.append(_summary(text.name, text.digest, text.tokens, [windows]))
    everything = _summary("total", "", sum(s.tokens for s in sets), measured)
    return ComparisonReport(tuple(texts), everything, left.seconds, right.seconds)


def _compare_window(left: _Side, right: _Side, ids: IntArray, buffer: list[FloatArray]) -> RowMetrics:
    """Measure the S-1 positions of one window that have a next token."""
    original = _collect(left.chunks(ids), len(ids), buffer)
    parts: list[RowMetrics] = []
    row = 0
    for chunk in right.chunks(ids):
        rows = min(len(chunk), len(ids) - 1 - row)
        if rows > 0:
            parts.append(
                compare_rows(original[row : row + rows], chunk[:rows], ids[row + 1 : row + 1 + rows])
            )
        row += len(chunk)
    return join_rows(parts)


def _collect(chunks: Iterator[FloatArray], rows: int, buffer: list[FloatArray]) -> FloatArray:
    """All chunks of a window as one array f32[rows, V]; a single chunk is used where it lies.

    `buffer` holds at most one array, kept from window to window.
    """
    row = 0
    for chunk in chunks:
        if len(chunk) == rows:
            whole = chunk
            for _ in chunks:  # lets the source finish and be timed
                pass
            return whole
        if not buffer or buffer[0].shape[0] < rows or buffer[0].shape[1] != chunk.shape[1]:
            if row:
                raise ValueError(f"chunks of one window differ in width: {chunk.shape[1]}")
            buffer[:] = [np.empty((rows, chunk.shape[1]), np.float32)]
        buffer[0][row : row + len(chunk)] = chunk
        row += len(chunk)
    return buffer[0][:rows]


def _summary(name: str, digest: str, tokens: int, texts: Sequence[Sequence[RowMetrics]]) -> TextComparison:
    """Estimates over one text, or over several as strata."""
    rows = join_rows([window for text in texts for window in text])
    units = make_units([[len(window) for window in text] for text in texts])
    delta = rows.nll_artifact - rows.nll_original
    nll = mean_estimate(delta, units)
    return TextComparison(
        name=name,
        digest=digest,
        tokens=tokens,
        sums=sum_rows(rows),
        nonfinite=rows.nonfinite,
        metrics={
            "kl": mean_estimate(rows.kl, units).mapped(float, low=0.0),
            "kl_p99": quantile_estimate(rows.kl, 0.99, units).mapped(float, low=0.0),
            "top1": mean_estimate(rows.agree, units).mapped(float, low=0.0, high=1.0),
            "nll": nll,
            "ppl_ratio": nll.mapped(_exp),
        },
        windows=tuple(
            WindowSummary(s.rows, s.kl / s.rows, (s.nll_artifact - s.nll_original) / s.rows, s.agree / s.rows)
            for s in (sum_rows(window) for text in texts for window in text)
        ),
        positions=by_position([[window.kl for window in text] for text in texts]),
    )


def _exp(x: float) -> float:
    return math.exp(x) if x < 700.0 else math.inf


def compare_greedy(original: Sequence[Sequence[int]], artifact: Sequence[Sequence[int]]) -> GreedyReport:
    """How long greedy answers stay the same.

    Args:
        original: token ids of the answer to each prompt, without the prompt.
        artifact: the same from the artifact, same order.

    Returns:
        Per prompt the equal leading tokens and the length, and the mean matching fraction over prompts.
    """
    if len(original) != len(artifact) or not original:
        raise ValueError(f"{len(original)} answers of the original, {len(artifact)} of the artifact")
    matches = [matching_prefix(a, b) for a, b in zip(original, artifact, strict=True)]
    fractions = np.array([equal / length if length else 1.0 for equal, length in matches])
    # A prompt is a sampling unit of its own: as many windows of one row.
    units = make_units([[1] * len(fractions)])
    estimate = ratio_estimate(fractions, np.ones(len(fractions)), units)
    return GreedyReport(tuple(matches), estimate.mapped(float, low=0.0, high=1.0))
