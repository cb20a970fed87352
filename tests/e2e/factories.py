"""Modules for the tests of `package.module:factory`: what a user's own file would hold."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Classifier(nn.Module):
    """A small image classifier: pixels f32[B,3,16,16] -> class scores f32[B,10]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
        )
        self.head = nn.Linear(32, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        scores: Tensor = self.head(self.body(pixels).flatten(1))
        return scores


def classifier() -> tuple[nn.Module, dict[str, Tensor], dict[str, dict[int, str]]]:
    """The classifier with statistics that are not those of a new module, for any batch."""
    module = Classifier()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
            nn.init.normal_(part.weight, 1.0, 0.2)
            nn.init.normal_(part.bias)
    return module, {"pixels": torch.randn(4, 3, 16, 16)}, {"pixels": {0: "B"}}


class Sentences(nn.Module):
    """MiniLM as a user would write it down: mean over real tokens, then length 1."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import AutoModel

        from tools.demo_models import model_path

        self.model = AutoModel.from_pretrained(model_path("minilm"), local_files_only=True)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """i64[B,S], i64[B,S] -> f32[B,384]."""
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        real = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled: Tensor = (hidden * real).sum(1) / real.sum(1)
        return nn.functional.normalize(pooled, dim=-1)


def sentences() -> tuple[nn.Module, dict[str, Tensor], dict[str, dict[int, str]]]:
    """The sentence encoder, for any number of texts of any length."""
    mask = torch.ones(3, 21, dtype=torch.long)
    mask[1, 13:] = 0
    mask[2, 6:] = 0
    ids = torch.randint(1000, 20000, (3, 21)) * mask
    sizes = {0: "B", 1: "S"}
    return (
        Sentences(),
        {"input_ids": ids, "attention_mask": mask},
        {"input_ids": sizes, "attention_mask": sizes},
    )
