"""What two models' logits say about the same text, row by row.

A row is one position of a window that has a next token: S tokens give S-1 rows. All differences are of the
artifact against the original, in nats.

With p the original's distribution, d = artifact logits - original logits, mu = E_p[d] and c = d - mu:

    KL(original || artifact) = log E_p[e^c]
    NLL_artifact(t) = logsumexp(original) + mu + KL - artifact[t]

so one exponential of the original and one of the difference give everything. Unlike the difference of two
logsumexps, this is exactly 0 for equal logits, and for small differences (c within 1/8) E_p[e^c - 1 - c] is
summed as a series whose terms are all >= 0, so that a KL of 1e-12 is still measured and not rounding noise.
Logits are float32; sums run in float32 over 256 neighbours and in float64 beyond.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

# Elements of one block: two float32 temporaries of this size stay in a core's second-level cache.
_BLOCK_ELEMENTS = 1 << 18
_MAX_BLOCK_ROWS = 128
_LEAF = 256
_SERIES_BELOW = 0.125
_EXP_BELOW = 60.0  # e^60 * e^0 is far from float32's overflow, and sums of it too


@dataclass(frozen=True)
class RowMetrics:
    """Measurements of n rows, in order.

    Attributes:
        kl: f64[n], KL(original || artifact) in nats, >= 0; inf where the artifact excludes what the
            original allows.
        nll_original: f64[n], -log p(next token) under the original, nats.
        nll_artifact: f64[n], the same under the artifact.
        agree: bool[n], both have the same most likely token (the first of equals).
    """

    kl: DoubleArray
    nll_original: DoubleArray
    nll_artifact: DoubleArray
    agree: BoolArray

    def __len__(self) -> int:
        return len(self.kl)

    @property
    def nonfinite(self) -> int:
        """Rows in which any measure is NaN or infinite."""
        finite = np.isfinite(self.kl) & np.isfinite(self.nll_original) & np.isfinite(self.nll_artifact)
        return int(len(self) - np.count_nonzero(finite))


@dataclass(frozen=True)
class Sums:
    """Totals of some rows; adding two gives the totals of both.

    `kl`, `nll_original`, `nll_artifact` are sums in nats, `agree` and `rows` counts.
    """

    rows: int = 0
    kl: float = 0.0
    nll_original: float = 0.0
    nll_artifact: float = 0.0
    agree: int = 0

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.rows + other.rows,
            self.kl + other.kl,
            self.nll_original + other.nll_original,
            self.nll_artifact + other.nll_artifact,
            self.agree + other.agree,
        )


def join_rows(parts: Sequence[RowMetrics]) -> RowMetrics:
    """One RowMetrics with the rows of all parts, in order; `parts` is not empty."""
    return RowMetrics(
        np.concatenate([p.kl for p in parts]),
        np.concatenate([p.nll_original for p in parts]),
        np.concatenate([p.nll_artifact for p in parts]),
        np.concatenate([p.agree for p in parts]),
    )


def sum_rows(rows: RowMetrics) -> Sums:
    """The totals of these rows."""
    return Sums(
        len(rows),
        float(rows.kl.sum()),
        float(rows.nll_original.sum()),
        float(rows.nll_artifact.sum()),
        int(np.count_nonzero(rows.agree)),
    )


def compare_rows(original: FloatArray, artifact: FloatArray, targets: IntArray) -> RowMetrics:
    """Compare logits of the same positions.

    Args:
        original: f32[n, V] logits of the original.
        artifact: f32[n, V] logits of the artifact.
        targets: i64[n], the token that follows each position.

    Returns:
        n measurements. Extra memory is two blocks of about 1 MB, whatever n is.
    """
    if original.shape != artifact.shape or original.ndim != 2:
        raise ValueError(f"logits differ in shape: original {original.shape}, artifact {artifact.shape}")
    rows, vocab = original.shape
    if targets.shape != (rows,):
        raise ValueError(f"{rows} rows of logits, but targets of shape {targets.shape}")
    out = RowMetrics(np.empty(rows), np.empty(rows), np.empty(rows), np.empty(rows, np.bool_))
    block = max(1, min(_MAX_BLOCK_ROWS, _BLOCK_ELEMENTS // max(vocab, 1)))
    weights = np.empty((min(block, rows), vocab), np.float32)
    difference = np.empty_like(weights)
    for start in range(0, rows, block):
        part = slice(start, min(start + block, rows))
        n = part.stop - part.start
        a = np.asarray(original[part], np.float32)
        b = np.asarray(artifact[part], np.float32)
        _block(a, b, targets[part], weights[:n], difference[:n], out, part)
    return out


def _block(
    a: FloatArray,
    b: FloatArray,
    targets: IntArray,
    e: FloatArray,
    d: FloatArray,
    out: RowMetrics,
    part: slice,
) -> None:
    """Measure one block into `out[part]`; `e` and `d` are scratch of the block's shape."""
    index = np.arange(len(a))
    top = a.argmax(axis=-1)
    out.agree[part] = top == b.argmax(axis=-1)
    peak = a[index, top]
    with np.errstate(all="ignore"):  # infinities and NaN are dealt with below, by value
        np.subtract(a, peak[:, None], out=e)
        np.exp(e, out=e)
        total = _dot(e, None)
        np.subtract(b, a, out=d)
        mean = _dot(e, d) / total
        centre = mean.astype(np.float32)
        np.subtract(d, centre[:, None], out=d)
        low, high = float(d.min()), float(d.max())
        if not (np.isfinite(low) and high < _EXP_BELOW and np.isfinite(total).all()):
            _block_exact(a, b, targets, out, part)
            return
        rest = _dot(e, d) / total  # what rounding left of E_p[c]
        if high - low < _SERIES_BELOW:
            _series(d)
            kl = np.log1p(_dot(e, d) / total)
        else:
            np.exp(d, out=d)
            kl = np.maximum(np.log(_dot(e, d) / total) - rest, 0.0)
        normaliser = np.log(total) + peak
        out.kl[part] = kl
        out.nll_original[part] = normaliser - a[index, targets]
        out.nll_artifact[part] = normaliser + centre + (rest + kl) - b[index, targets]


def _series(c: FloatArray) -> None:
    """Replace c by e^c - 1 - c, for |c| < 1/8: c^2 (1/2 + c/6 + c^2/24 + c^3/120), relative error < 1e-6."""
    square = np.multiply(c, c)
    tail = np.multiply(c, np.float32(1 / 120))
    tail += np.float32(1 / 24)
    tail *= c
    tail += np.float32(1 / 6)
    tail *= c
    tail += np.float32(0.5)
    np.multiply(square, tail, out=c)


def _dot(x: FloatArray, y: FloatArray | None) -> DoubleArray:
    """f64[n]: the sum over the last axis of x * y, or of x; float32 within leaves of 256, float64 over
    them."""
    rows, width = x.shape
    whole = width - width % _LEAF
    result = np.zeros(rows)
    for part, leaf in ((slice(0, whole), _LEAF), (slice(whole, width), width - whole)):
        if part.stop == part.start:
            continue
        left = x[:, part].reshape(rows, -1, leaf)
        leaves = left.sum(axis=-1) if y is None else np.vecdot(left, y[:, part].reshape(rows, -1, leaf))
        result += leaves.sum(axis=-1, dtype=np.float64)
    return result


def _block_exact(a: FloatArray, b: FloatArray, targets: IntArray, out: RowMetrics, part: slice) -> None:
    """The same measures by definition, in float64, row by row: for infinite, NaN or very different logits.

    A token that the original excludes (logit -inf) contributes nothing, whatever the artifact says of it.
    """
    for row in range(len(a)):
        log_p = _log_softmax(a[row].astype(np.float64))
        log_q = _log_softmax(b[row].astype(np.float64))
        p = np.exp(log_p)
        terms = np.where(p == 0.0, 0.0, p * (log_p - log_q))
        at = part.start + row
        out.kl[at] = np.maximum(terms.sum(), 0.0)  # maximum keeps NaN
        out.nll_original[at] = -log_p[targets[row]]
        out.nll_artifact[at] = -log_q[targets[row]]


def _log_softmax(x: DoubleArray) -> DoubleArray:
    shifted = x - x.max()
    result: DoubleArray = shifted - np.log(np.exp(shifted).sum())
    return result


def matching_prefix(original: Sequence[int], artifact: Sequence[int]) -> tuple[int, int]:
    """How far two token sequences agree from the start.

    Returns:
        (equal leading tokens, tokens of the longer one), so stopping early or late counts as disagreement.
    """
    equal = 0
    for left, right in zip(original, artifact, strict=False):
        if left != right:
            break
        equal += 1
    return equal, max(len(original), len(artifact))
