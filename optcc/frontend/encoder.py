"""Encoders as one function: token ids and a mask in, one tensor out, pooling included."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

Pooling = Literal["mean", "cls", "none"]


class Encoder(nn.Module):
    """`input_ids` i64[B,S], `attention_mask` i64[B,S] (1: real token) -> f32[B,D], or f32[B,S,D] without
    pooling.

    Mean pooling and normalization are those of sentence-transformers: the mean over real tokens, then
    division by the Euclidean length.
    """

    def __init__(self, model: nn.Module, pooling: Pooling, normalize: bool) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling
        self.normalize = normalize

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """See the class."""
        hidden: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.pooling == "mean":
            weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
            hidden = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
        elif self.pooling == "cls":
            hidden = hidden[:, 0]
        if self.normalize:
            # Spelled out: this is what torch.nn.functional.normalize computes, in operators every backend
            # knows.
            hidden = hidden / hidden.pow(2).sum(-1, keepdim=True).sqrt().clamp(min=1e-12)
        return hidden


def example_inputs() -> dict[str, Tensor]:
    """Two texts of five and three tokens: sizes that no dimension of a model is likely to share."""
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    return {"input_ids": mask * 3 + 1, "attention_mask": mask}


def max_tokens(model: nn.Module) -> int:
    """Longest text the model has positions for. RoBERTa and its kin count positions from behind the padding
    index."""
    config: Any = model.config
    limit = int(config.max_position_embeddings)
    embeddings: Any = getattr(model, "embeddings", None)
    if hasattr(embeddings, "create_position_ids_from_input_ids"):
        limit -= int(embeddings.padding_idx) + 1
    return limit
