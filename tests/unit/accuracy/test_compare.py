"""compare_decoder and compare_greedy on small synthetic models."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest

from optcc.accuracy.compare import LogitsFn, compare_decoder, compare_greedy
from optcc.accuracy.data import TextSet
from optcc.accuracy.gates import judge, parse_limits
from optcc.accuracy.metrics import FloatArray, IntArray, compare_rows

VOCAB = 300


def model(noise: float, chunk: int, vocab: int = VOCAB) -> LogitsFn:
    """A bigram model: a row depends on its token alone; `noise` disturbs it, `chunk` rows come at a time."""
    rng = np.random.default_rng(7)
    table = (3 * rng.standard_normal((vocab, vocab))).astype(np.float32)
    table += (noise * np.random.default_rng(8).standard_normal(table.shape)).astype(np.float32)

    def logits(ids: IntArray) -> Iterator[FloatArray]:
        for start in range(0, len(ids), chunk):
            yield table[ids[start : start + chunk]]

    return logits


def text(name: str, windows: int, width: int, seed: int) -> TextSet:
    rng = np.random.default_rng(seed)
    return TextSet(name, tuple(rng.integers(0, VOCAB, width) for _ in range(windows)), f"digest-{name}")


SETS = [text("prose", 6, 64, 1), text("code", 5, 64, 2)]


@pytest.mark.parametrize(("left", "right"), [(64, 64), (64, 10), (10, 64), (7, 13), (1, 63)])
def test_same_numbers_however_the_logits_are_chunked(left: int, right: int) -> None:
    whole = compare_decoder(model(0, 64), model(0.3, 64), SETS)
    cut = compare_decoder(model(0, left), model(0.3, right), SETS)
    for a, b in zip((*whole.texts, whole.total), (*cut.texts, cut.total), strict=True):
        assert a.sums.rows == b.sums.rows
        for metric in a.metrics:
            assert a.metrics[metric].value == pytest.approx(b.metrics[metric].value, rel=1e-5, abs=1e-7)


def test_totals_are_those_of_all_rows() -> None:
    original, artifact = model(0, 64), model(0.3, 64)
    report = compare_decoder(original, artifact, SETS)
    kl, delta, agree = [], [], []
    for ids in (w for s in SETS for w in s.windows):
        rows = compare_rows(next(original(ids))[:-1], next(artifact(ids))[:-1], ids[1:])
        kl.append(rows.kl)
        delta.append(rows.nll_artifact - rows.nll_original)
        agree.append(rows.agree)
    metrics = report.total.metrics
    assert report.total.sums.rows == 11 * 63
    assert metrics["kl"].value == pytest.approx(np.concatenate(kl).mean())
    assert metrics["nll"].value == pytest.approx(np.concatenate(delta).mean())
    assert metrics["top1"].value == pytest.approx(np.concatenate(agree).mean())
    assert metrics["ppl_ratio"].value == pytest.approx(
        report.total.perplexity_artifact / report.total.perplexity_original
    )
    assert metrics["kl_p99"].value == np.sort(np.concatenate(kl))[int(np.ceil(0.99 * 693)) - 1]
    assert all(e.low <= e.value <= e.high for e in metrics.values())


def test_the_same_model_is_measured_as_the_same() -> None:
    report = compare_decoder(model(0, 64), model(0, 9), SETS)
    limits = parse_limits({"kl": 0, "kl_p99": 0, "top1": 1, "nll": 0, "ppl_ratio": 1})
    assert judge(limits, report.measurements(), report.tokens()).status == "ok"


def test_one_bad_text_fails_although_the_total_passes() -> None:
    """The artifact is wrong only for the tokens that "code" is made of."""
    rng = np.random.default_rng(3)
    good = TextSet("prose", tuple(rng.integers(0, 150, 64) for _ in range(40)), "")
    bad = TextSet("code", tuple(rng.integers(150, VOCAB, 64) for _ in range(5)), "")

    def broken(ids: IntArray) -> Iterator[FloatArray]:
        for chunk, other in zip(model(0, 64)(ids), model(0.5, 64)(ids), strict=True):
            yield np.where((ids >= 150)[:, None], other, chunk)

    report = compare_decoder(model(0, 64), broken, [good, bad])
    limits = parse_limits({"kl": 0.05})
    assert judge(limits, report.measurements("total")).status == "ok"
    each = judge(limits, report.measurements("each"))
    assert each.status == "failed"
    assert [v.subject for v in each.problems] == ["code"]


def test_nan_logits_are_counted_and_fail() -> None:
    def broken(ids: IntArray) -> Iterator[FloatArray]:
        for chunk in model(0, 64)(ids):
            out = chunk.copy()
            out[5] = np.nan
            yield out

    report = compare_decoder(model(0, 64), broken, SETS)
    assert report.total.nonfinite == 11
    assert judge(parse_limits({"kl": 1.0}), report.measurements()).status == "failed"
    json.dumps(report.to_json(), allow_nan=False)


def test_progress_and_times() -> None:
    seen: list[tuple[str, int, int]] = []
    report = compare_decoder(
        model(0, 64), model(0, 64), SETS, progress=lambda name, done, total: seen.append((name, done, total))
    )
    assert [done for _, done, _ in seen] == list(range(1, 12))
    assert seen[5] == ("prose", 6, 11)
    assert seen[6] == ("code", 7, 11)
    assert report.original_seconds > 0
    assert report.artifact_seconds > 0


def test_report_as_json_holds_what_was_measured() -> None:
    report = compare_decoder(model(0, 64), model(0.3, 64), SETS)
    report = report.with_greedy(compare_greedy([[1, 2, 3], [4]], [[1, 2, 9], [4]]))
    plain = json.loads(json.dumps(report.to_json(), allow_nan=False))
    prose = plain["texts"][0]
    assert (prose["name"], prose["digest"], prose["tokens"], prose["rows"]) == (
        "prose",
        "digest-prose",
        384,
        378,
    )
    assert len(prose["windows"]) == 6
    assert set(prose["metrics"]) == {"kl", "kl_p99", "top1", "nll", "ppl_ratio"}
    assert prose["metrics"]["kl"]["method"] == "t"
    assert plain["greedy"]["identical"] == 1
    assert report.measurements()["answers"]["greedy"].value == pytest.approx((2 / 3 + 1) / 2)


@pytest.mark.parametrize("rows", [-1, 1])
def test_a_wrong_number_of_rows_is_refused(rows: int) -> None:
    def wrong(ids: IntArray) -> Iterator[FloatArray]:
        yield np.zeros((len(ids) + rows, VOCAB), np.float32)

    with pytest.raises(ValueError, match="artifact gave"):
        compare_decoder(model(0, 64), wrong, SETS)
    with pytest.raises(ValueError, match="original gave"):
        compare_decoder(wrong, model(0, 64), SETS)


def test_no_more_than_a_window_of_each_is_held() -> None:
    vocab, width = 16_000, 256
    window_bytes = vocab * width * 4
    one = TextSet("x", tuple(np.arange(width, dtype=np.int64) for _ in range(4)), "")
    base = np.zeros((16, vocab), np.float32)

    def stream(ids: IntArray) -> Iterator[FloatArray]:
        for _ in range(0, len(ids), 16):
            yield base.copy()

    tracemalloc.start()
    try:
        compare_decoder(stream, stream, [one])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.6 * window_bytes  # two windows would be 2


def test_greedy_edges() -> None:
    assert compare_greedy([[1]] * 5, [[1]] * 5).estimate.low == 1.0
    assert compare_greedy([[]], [[]]).estimate.value == 1.0
    with pytest.raises(ValueError, match="answers"):
        compare_greedy([[1]], [])
