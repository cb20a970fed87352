"""How long every node of a graph takes, as ONNX Runtime's own profiler says."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from optcc.backends.onnxruntime.executor import OnnxExecutor
from optcc.backends.onnxruntime.separate import separate
from optcc.backends.onnxruntime.session import MODEL, open_session
from optcc.backends.protocol import StepProfile
from optcc.runtime.executor import Batch

_WARM = 2
_SUFFIX = "_kernel_time"


def profile(
    root: Path, spec: Mapping[str, Any], threads: int, batches: Sequence[Batch], rounds: int
) -> list[StepProfile]:
    """Run every batch some times and take medians.

    Linears that the graph calls together are called one by one here, so that each has its own time.

    Args:
        root: the artifact.
        spec: the manifest's `spec`.
        threads: 0 means one per physical core.
        batches: steps, each over a pool of its own; what the pool holds is zeros.
        rounds: how often each is counted; two before them warm up.
    """
    with tempfile.TemporaryDirectory(prefix="optcc-profile-") as folder:
        return [_one(root, spec, threads, batch, rounds, Path(folder)) for batch in batches]


def _one(
    root: Path, spec: Mapping[str, Any], threads: int, batch: Batch, rounds: int, folder: Path
) -> StepProfile:
    executor = OnnxExecutor(root, spec, threads)
    session = open_session(root, threads, _separated(root), profile=str(folder / "events"))
    executor._session, executor._binding = session, session.io_binding()
    try:
        executor.bind(int(batch.block_table.max()) + 1)
        for _ in range(_WARM + rounds):
            executor.step(batch)
        file = Path(session.end_profiling())
    finally:
        executor.close()
    found = read_events(json.loads(file.read_text()), rounds)
    file.unlink()
    return found


def _separated(root: Path) -> bytes:
    import onnx

    model = onnx.load_model(root / MODEL, load_external_data=False)
    separate(model)
    data: bytes = model.SerializeToString()
    return data


def read_events(events: Sequence[Mapping[str, Any]], rounds: int) -> StepProfile:
    """Medians over the last runs of a profile: of whole runs, and of the operators that each node was lowered to.

    A node of an ONNX graph is called `<node>/<operator>`, unless ONNX Runtime made it itself.
    """
    runs = sorted((e for e in events if e.get("name") == "model_run"), key=lambda e: e["ts"])[-rounds:]
    seen: list[dict[str, float]] = [{} for _ in runs]
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") != "Node" or not name.endswith(_SUFFIX):
            continue
        owner, _, made = name.removesuffix(_SUFFIX).partition("/")
        key = owner if made else ""
        for run, times in zip(runs, seen, strict=True):
            if run["ts"] <= event["ts"] < run["ts"] + run["dur"]:
                times[key] = times.get(key, 0.0) + event["dur"] / 1e6
    names = sorted(set().union(*seen))
    nodes = {name: median(times.get(name, 0.0) for times in seen) for name in names}
    # Within one run: the medians of nodes and of runs are of different runs where something else disturbed them.
    outside = median(
        run["dur"] / 1e6 - sum(times.values()) + times.get("", 0.0)
        for run, times in zip(runs, seen, strict=True)
    )
    return StepProfile(median(run["dur"] for run in runs) / 1e6, nodes, max(0.0, outside))
