"""The ledger by weight: what lies in the file, and passes that lie about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from optcc.artifact import Artifact
from optcc.compile import CompileOptions, compile_model
from optcc.errors import LedgerMismatch
from optcc.recipe import load_recipe
from tests import zoo

QUIET = CompileOptions(cache=None, speed=False)
OFF = ["target.threads=1", "check.enabled=false"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(zoo.save("llama", tmp_path_factory.mktemp("model") / "llama"))


@pytest.mark.parametrize("backend", ["onnxruntime", "reference"])
def test_every_weight_has_a_row(model: str, tmp_path: Path, backend: str) -> None:
    overrides = [*OFF, f"target.backend={backend}", "quantize.linear.scheme=int4-g32-a8"]
    made = compile_model(model, load_recipe("cpu-int8", overrides), tmp_path / "out", QUIET)
    rows = {row.name: row for row in made.report.ledger.rows}
    q = rows["model.layers.0.self_attn.q_proj.weight"]
    assert (q.scheme, q.stored, q.shape) == ("int4-g32-a8", "int4 g32 float32 scales", (64, 64))
    assert q.bytes == 64 * 64 // 2 + 64 * 2 * 4
    assert q.error is not None and 0.02 < q.error < 0.2
    assert q.steps is not None and 0.2 < q.steps < 0.4
    assert rows["model.norm.weight"].error == 0
    total = Artifact.open(tmp_path / "out").weights().tensors
    assert all(place.split()[0] in total for row in rows.values() for place in row.tensors)
    kept = sum(row.bytes for row in rows.values() if row.scheme != "plain")
    assert kept == made.report.ledger.quantized_bytes


def test_int8_is_nearer_than_int4(model: str, tmp_path: Path) -> None:
    def noise(scheme: str) -> float:
        recipe = load_recipe("cpu-int8", [*OFF, f"quantize.linear.scheme={scheme}"])
        rows = compile_model(model, recipe, tmp_path / scheme, QUIET).report.ledger.rows
        return min(row.sqnr for row in rows if row.sqnr is not None)

    assert noise("int8-g64-a8") > noise("int4-g64-a8") + 20


FAULTY = """\
from dataclasses import dataclass
import torch
from optcc.ir.module import Module
from optcc.passes.quantize.linear import QuantizeLinear
from optcc.quant import attach

@dataclass(frozen=True)
class Faulty(QuantizeLinear):
    \"\"\"Packs weights, and spoils {what}.

    Before: canonical. After: canonical.
    \"\"\"

    def run(self, module: Module, ctx) -> bool:
        {body}
"""
NOTHING = "self.note_schemes(module, self.select(module, ctx.base), self.load(ctx.base)); return True"
SPOIL = "super().run(module, ctx)\n        w = module.weights\n        {change}\n        return True"
FAULTS = {
    "nothing at all": NOTHING,
    "scales": SPOIL.format(
        change="for n in [n for n in w if n.endswith('q_proj.weight.scale')]: w.put(n, w[n] * 2)"
    ),
    "values": SPOIL.format(
        change="for n in [n for n in w if n.endswith('up_proj.weight.packed')]: w.put(n, torch.zeros_like(w[n]))"
    ),
    "names": SPOIL.format(
        change="a, b = (f'model.layers.1.mlp.{k}_proj.weight' for k in ('gate', 'up'))\n"
        "        for p in ('.packed', '.scale'): w.refs[a + p], w.refs[b + p] = w.refs[b + p], w.refs[a + p]"
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("scheme", ["int8-g64-a8", "int4-g32-a8"])
def test_a_pass_that_lies_fails_the_compile(model: str, tmp_path: Path, fault: str, scheme: str) -> None:
    file = tmp_path / "faulty.py"
    file.write_text(FAULTY.format(what=fault, body=FAULTS[fault]))
    recipe = tmp_path / "faulty.yaml"
    recipe.write_text(
        "version: 1\nextends: cpu-fp32\npasses:\n  quantize:\n"
        f"    - ./faulty.py:Faulty: {{scheme: {scheme}}}\ncheck: {{enabled: false}}\n"
    )
    with pytest.raises(LedgerMismatch):
        compile_model(model, load_recipe(recipe, ["target.threads=1"]), tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()
