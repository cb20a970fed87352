"""A model in bfloat16 that computes in float32, and never holds a large weight of it whole."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from optcc.frontend import upcast


class Talker(nn.Module):
    """An embedding, a norm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 24)
        self.norm = nn.LayerNorm(24)
        self.head = nn.Linear(24, 50)

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.head(self.norm(self.table(ids)))
        return scores


@pytest.mark.parametrize("at_once", [1, 24 * 7, 1 << 20])
def test_it_computes_what_float32_weights_compute(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upcast, "_AT_ONCE", at_once)
    model = Talker().to(torch.bfloat16)
    wide = copy.deepcopy(model).float()
    ids = torch.arange(12).reshape(2, 6)
    upcast.compute_in_float32(model)
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad):
        with mode():
            found = model(ids)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, wide(ids), rtol=0, atol=1e-5)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
