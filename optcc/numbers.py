"""How numbers look to people: in a terminal, in Markdown and in HTML alike. Imports nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def human_bytes(count: int | float) -> str:
    """A size in powers of 1000, as disks and registries count: `147.9 MB`."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def human_seconds(seconds: float) -> str:
    """`83 ms`, `4.1 s`, `2 min 05 s`."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s"


def human_rate(rate: float) -> str:
    """Tokens per second with three digits that mean something."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 10 else f"{rate:.2f}"


def bytes_delta(now: int, before: int) -> str:
    """`-403.2 MB`, or nothing when the size is the same."""
    if now == before:
        return ""
    return ("+" if now > before else "-") + human_bytes(abs(now - before))


def times(ratio: float) -> str:
    """A ratio as `3.6x`."""
    return f"{ratio:.0f}x" if ratio >= 100 else f"{ratio:.1f}x" if ratio >= 10 else f"{ratio:.2f}x"


def number(value: float | None) -> str:
    """A measured value with three significant digits; `n/a` stands for what isn't finite."""
    if value is None:
        return "n/a"
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e5:
        return f"{value:.1e}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.1f}"


def cosine(value: float | None) -> str:
    """Cosines live near 1, where three digits all look alike."""
    return f"{value:.6f}" if value is not None and 0.9 < value < 1 else number(value)


def percent(value: float | None) -> str:
    """A fraction as `97.4 %`."""
    return "n/a" if value is None else f"{value * 100:.1f} %" if value < 1 else "100 %"


def interval(estimate: Mapping[str, Any], show: Callable[[float | None], str] = number) -> str:
    """`0.0102 [0.0097, 0.0108]`; an exact value stands alone."""
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    text = show(value)
    return text if low == high else f"{text} [{show(low)}, {show(high)}]"


def spread(summary: Mapping[str, Any]) -> str:
    """A median with its range: `41.2 (39.8-42.0)`."""
    return f"{human_rate(summary['median'])} ({human_rate(summary['low'])}-{human_rate(summary['high'])})"
