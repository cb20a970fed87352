"""What fused weights are called and how they are stored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from optcc.ir.parse import parse_module
from optcc.ir.weights import WeightStore
from optcc.passes.fuse._siblings import joined_name
from optcc.pm import Context, build_pass
from optcc.pm.instruments import Check
from optcc.pm.run import run_pass

_GATED = """\
optcc.ir 1
attrs {"kind": "function"}
graph model {
  %x : f32[T, 8] = input
  %gate : f32[T, 6] = aten.linear.default(%x, @m.gate_proj.weight)
  %act : f32[T, 6] = aten.silu.default(%gate)
  %up : f32[T, 6] = aten.linear.default(%x, @m.up_proj.weight)
  %mul : f32[T, 6] = aten.mul.Tensor(%act, %up)
  return y = %mul
}
weights {
  @m.gate_proj.weight : f32[6, 8]
  @m.up_proj.weight : f32[6, 8]
}
"""


@pytest.mark.parametrize(
    ("names", "joined"),
    [
        (
            ["l.0.attn.q_proj.weight", "l.0.attn.k_proj.weight", "l.0.attn.v_proj.weight"],
            "l.0.attn.qkv_proj.weight",
        ),
        (["m.gate_proj.weight", "m.up_proj.weight"], "m.gate_up_proj.weight"),
        (["m.w1.weight.packed", "m.w3.weight.packed"], "m.w1_w3.weight.packed"),
        (["a.query.weight", "a.key.weight", "a.value.weight"], "a.query_key_value.weight"),
        (["a.self.q.weight", "b.q.weight"], "a.self_b.q.weight"),
        (["q", "k"], "qk"),
    ],
)
def test_joined_names(names: list[str], joined: str) -> None:
    assert joined_name(names) == joined


def test_weights_stored_narrow_stay_narrow(tmp_path: Path) -> None:
    """A bfloat16 checkpoint read as float32 is stacked in bfloat16."""
    store = WeightStore(tmp_path)
    parts = {name: torch.randn(6, 8).bfloat16() for name in ("m.gate_proj.weight", "m.up_proj.weight")}
    for name, tensor in parts.items():
        store.put(name, tensor)
        store.cast(name, torch.float32)
    module = parse_module(_GATED, store)
    assert run_pass(module, build_pass("fuse.gated-mlp", {}), Context(), [Check()])
    ref = store.refs["m.gate_up_proj.weight"]
    assert (ref.dtype, ref.read_dtype, ref.nbytes) == (torch.bfloat16, torch.float32, 12 * 8 * 2)
    assert torch.equal(store["m.gate_up_proj.weight"], torch.cat(list(parts.values())).float())
    assert set(store) == {"m.gate_up_proj.weight"}
