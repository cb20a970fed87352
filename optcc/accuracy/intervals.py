"""95 % confidence intervals over windows of text.

The unit of sampling is the window, since neighbouring tokens depend on each other. Both models see the same
windows, so every difference is paired: what varies from text to text alike for both cancels. A metric over
several texts is stratified: the texts are fixed, only the windows within each vary.

* Fewer than 30 units: Student's t on the linearised ratio (sum of values / sum of rows). With few windows the
  percentile bootstrap is known to be too narrow, t isn't.
* 30 units or more: percentile bootstrap with 2000 resamples, drawn from Philox (counter-based, fixed key):
  the same input gives the same interval.
* Quantiles always resample; below 30 units the bootstrap's standard error is multiplied by t.
* Texts of fewer than 4 windows are cut into eighths of a window, and the method is marked "-blocks": such
  an interval is somewhat too narrow.

Nothing here is corrected for looking at several metrics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optcc.accuracy.metrics import DoubleArray, IntArray

BOOTSTRAP_FROM = 30
MIN_WINDOWS = 4
BLOCKS_PER_WINDOW = 8
RESAMPLES = 2000
# Numbers drawn at a time: a few MB, whatever the number of rows.
_BATCH_ELEMENTS = 250_000
_KEY = 0x6F707463635F6369  # "optcc_ci"
_NORMAL = 1.959963984540054
# Two-sided 95 % points of Student's t for 1..30 degrees of freedom.
_T = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """A measured value and where the truth lies with 95 % confidence.

    `low` and `high` are infinite when there is too little data to say. `units` counts what was sampled:
    windows, blocks, prompts or inputs. `method` is t, bootstrap, t-blocks, bootstrap-blocks, exact or none.
    """

    value: float
    low: float
    high: float
    units: int
    method: str

    def mapped(
        self, function: Callable[[float], float], low: float = -math.inf, high: float = math.inf
    ) -> Estimate:
        """The estimate of an increasing function of the value, kept within [low, high]."""

        def apply(x: float) -> float:
            y = function(x)
            return y if math.isnan(y) else min(max(y, low), high)

        return Estimate(apply(self.value), apply(self.low), apply(self.high), self.units, self.method)

    def to_json(self) -> dict[str, float | int | str | None]:
        """Plain data; numbers that aren't finite become null."""

        def plain(x: float) -> float | None:
            return x if math.isfinite(x) else None

        return {
            "value": plain(self.value),
            "low": plain(self.low),
            "high": plain(self.high),
            "units": self.units,
            "method": self.method,
        }


def exact(value: float, units: int) -> Estimate:
    """A value that is a fact about the inputs seen (a minimum, a maximum) and makes no claim about others."""
    return Estimate(value, value, value, units, "exact")


def t_quantile(degrees: int) -> float:
    """The two-sided 95 % point of Student's t; infinite for no degrees of freedom, error < 1e-4 otherwise."""
    if degrees < 1:
        return math.inf
    if degrees <= len(_T):
        return _T[degrees - 1]
    z = _NORMAL
    first = (z**3 + z) / (4 * degrees)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    return z + first + second


@dataclass(frozen=True)
class Units:
    """Sampling units of a measurement.

    Attributes:
        starts: i64[n], first row of each unit; a unit ends where the next one starts.
        strata: i64[n], which text each unit is from, non-decreasing.
        blocks: the units are pieces of windows rather than windows.
    """

    starts: IntArray
    strata: IntArray
    blocks: bool = False

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def degrees(self) -> int:
        """Degrees of freedom that are left after one mean per text."""
        return len(self) - len(np.unique(self.strata))

    @property
    def suffix(self) -> str:
        """What the method's name carries."""
        return "-blocks" if self.blocks else ""


def make_units(texts: Sequence[Sequence[int]]) -> Units:
    """Units for rows that lie window after window, text after text.

    Args:
        texts: rows of every window, per text; each text has a window, each window a row.
    """
    blocks = any(len(windows) < MIN_WINDOWS and max(windows) > 1 for windows in texts)
    starts: list[int] = []
    strata: list[int] = []
    row = 0
    for index, windows in enumerate(texts):
        for rows in windows:
            step = max(1, -(-rows // BLOCKS_PER_WINDOW)) if blocks else max(1, rows)
            cuts = list(range(row, row + rows, step))
            starts += cuts
            strata += [index] * len(cuts)
            row += rows
    return Units(np.array(starts, np.int64), np.array(strata, np.int64), blocks)


def mean_estimate(values: npt.NDArray[np.generic], units: Units) -> Estimate:
    """The mean of per-row values, with its interval over units.

    Args:
        values: [n], one number (or bool) per row.
        units: how rows group.
    """
    sums = np.add.reduceat(values.astype(np.float64), units.starts)
    sizes = np.diff(np.append(units.starts, len(values))).astype(np.float64)
    return ratio_estimate(sums, sizes, units)


def ratio_estimate(sums: DoubleArray, sizes: DoubleArray, units: Units) -> Estimate:
    """sum(sums) / sum(sizes) with its interval; both f64[n], one entry per unit."""
    with np.errstate(all="ignore"):
        value = float(np.divide(sums.sum(), sizes.sum()))
    if not math.isfinite(value):
        return Estimate(value, value, value, len(units), "none")
    if units.degrees < 1:
        return Estimate(value, -math.inf, math.inf, len(units), "none")
    if len(units) < BOOTSTRAP_FROM:
        half = t_quantile(units.degrees) * _ratio_error(sums, sizes, value, units)
        return Estimate(value, value - half, value + half, len(units), "t" + units.suffix)
    samples = np.concatenate(
        [sums[picks].sum(axis=1) / sizes[picks].sum(axis=1) for picks in _resamples(units, len(units))]
    )
    return _percentiles(value, samples, units)


def quantile_estimate(values: DoubleArray, quantile: float, units: Units) -> Estimate:
    """The smallest value that at least `quantile` of all rows don't exceed, with its interval.

    Args:
        values: f64[n], one number per row.
        quantile: in (0, 1].
        units: how rows group.
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    value = float(ordered[max(0, math.ceil(quantile * len(values)) - 1)])
    if not math.isfinite(float(ordered[-1])):  # NaN sorts last
        return Estimate(float(ordered[-1]), float(ordered[-1]), float(ordered[-1]), len(units), "none")
    if units.degrees < 1:
        return Estimate(value, -math.inf, math.inf, len(units), "none")
    unit_of_row = np.repeat(np.arange(len(units)), np.diff(np.append(units.starts, len(values))))[order]
    found: list[DoubleArray] = []
    for picks in _resamples(units, len(values)):
        # A resample repeats units; walk the sorted rows once, each counted as often as its unit was drawn.
        counts = np.zeros((len(picks), len(units)), np.int32)
        np.add.at(counts, (np.arange(len(picks))[:, None], picks), 1)
        reached = np.cumsum(counts[:, unit_of_row], axis=1)
        needed = np.ceil(quantile * reached[:, -1])
        found.append(ordered[(reached < needed[:, None]).sum(axis=1)])
    samples = np.concatenate(found)
    if len(units) >= BOOTSTRAP_FROM:
        return _percentiles(value, samples, units)
    half = t_quantile(units.degrees) * float(samples.std()) * math.sqrt(len(units) / units.degrees)
    return Estimate(value, value - half, value + half, len(units), "bootstrap-t" + units.suffix)


def _ratio_error(sums: DoubleArray, sizes: DoubleArray, value: float, units: Units) -> float:
    """Standard error of the ratio, to first order, stratified."""
    residual = sums - value * sizes
    variance = 0.0
    for text in np.unique(units.strata):
        part = residual[units.strata == text]
        if len(part) > 1:
            variance += len(part) * float(part.var(ddof=1))
    return math.sqrt(variance) / float(sizes.sum())


def _percentiles(value: float, samples: DoubleArray, units: Units) -> Estimate:
    low, high = np.quantile(samples, [0.025, 0.975])
    return Estimate(value, float(low), float(high), len(units), "bootstrap" + units.suffix)


def _resamples(units: Units, width: int) -> Iterator[IntArray]:
    """Batches of resampled unit numbers i64[batch, n], drawn within each text; `width` bounds a batch's
    memory."""
    generator = np.random.Generator(np.random.Philox(key=_KEY))
    batch = max(1, min(RESAMPLES, _BATCH_ELEMENTS // max(width, 1)))
    starts, counts = np.unique(units.strata, return_index=True, return_counts=True)[1:]
    for done in range(0, RESAMPLES, batch):
        rows = min(batch, RESAMPLES - done)
        yield np.concatenate(
            [first + generator.integers(0, n, (rows, n)) for first, n in zip(starts, counts, strict=True)],
            axis=1,
        )
