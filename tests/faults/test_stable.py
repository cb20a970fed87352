"""A verdict says something about the fault, not about the draw: 20 models of other weights, 20 orders of serving."""

from __future__ import annotations

import numpy as np
import pytest

from optcc.accuracy.gates import LINKS
from optcc.artifact import Artifact
from optcc.backends.registry import load_backend
from optcc.compile.served import serve
from optcc.runtime.score import score_windows
from tests.faults.bench import Bench
from tests.faults.catalogue import FAULTS
from tests.faults.clean import SEEDS, SUBTLE
from tests.faults.models import VOCAB
from tests.faults.plant import Planting


@pytest.mark.prove
@pytest.mark.parametrize("name", SUBTLE)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_subtle_fault_is_caught_whatever_the_weights(bench: Bench, name: str, seed: int) -> None:
    fault = next(f for f in FAULTS if f.name == name)
    outcome = bench.judge(fault, "int4", seed)
    print(f"{outcome.by}: {outcome.figure}")
    assert outcome.caught, outcome.figure


def difference(bench: Bench, seed: int) -> float:
    """The largest difference of logits between alone and served, for the artifact that was compiled last."""
    artifact = Artifact.open(bench.folder / "out", force=True)
    executor = load_backend("onnxruntime").open_decoder(artifact.root, artifact.spec, 1)
    draw = np.random.default_rng(3)
    texts = [draw.integers(6, VOCAB, n).tolist() for n in (70, 48, 33, 16)]
    alone = [np.concatenate([c.copy() for c in score_windows(executor, [t])]) for t in texts]
    found = [np.abs(alone[s.request][s.positions] - s.logits).max() for s in serve(executor, texts, seed)]
    executor.close()
    return float(max(found))


def test_any_order_of_serving_tells_right_from_wrong(bench: Bench) -> None:
    bench.compile(bench.model("llama"), bench.recipe("fp32", "check.enabled=false"))
    wrong = [
        f for f in FAULTS if f.name in ("rows of the block table exchanged", "rows of two requests exchanged")
    ]
    for seed in range(SEEDS):
        clean = difference(bench, seed)
        assert clean < 1e-3, seed
        for fault in wrong:
            with pytest.MonkeyPatch.context() as patch:
                fault.plant(Planting(patch))
                assert difference(bench, seed) > 100 * max(clean, LINKS["serving"]), (fault.name, seed)
