"""The comparison as a picture: bars for the rates that matter, whiskers from lowest to highest."""

from __future__ import annotations

from pathlib import Path

from benchmarks.cpu.results import Results
from benchmarks.cpu.workload import BY_KEY

_PANELS = ("decode", "prefill", "requests16")
_OURS, _THEIRS = "#c2410c", "#94a3b8"


def draw(results: Results, threads: int, path: Path) -> None:
    """Write an SVG (or what the suffix says). Needs matplotlib; raises ImportError without it."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "optcc"  # the same figures give the same file
    from matplotlib import pyplot

    names = list(reversed(results.contestants))
    figure, axes = pyplot.subplots(1, len(_PANELS), figsize=(11, 0.9 + 0.36 * len(names)), sharey=True)
    for axis, key in zip(axes, _PANELS):
        for row, name in enumerate(names):
            found = results.spread(name, threads, key)
            if found is None:
                continue
            axis.barh(row, found.median, color=_OURS if name in results.ours() else _THEIRS)
            axis.plot([found.low, found.high], [row, row], color="#1e293b", linewidth=1.2)
            axis.text(
                0, row, f" {found.median:.0f}", va="center", fontsize=8, color="white", fontweight="bold"
            )
        axis.set_title(f"{BY_KEY[key].title}\n{BY_KEY[key].unit}", fontsize=10)
        axis.set_yticks(range(len(names)), [_label(results, name) for name in names], fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(axis="x", labelsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def _label(results: Results, name: str) -> str:
    return f"{name}  (NLL {results.mean_nll(name):.3f})" if name in results.nll else name
