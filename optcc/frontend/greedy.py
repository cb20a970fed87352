"""Greedy answers from transformers' own generation loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


def greedy_answers(
    model: nn.Module, prompts: Sequence[Sequence[int]], tokens: int, eos: Sequence[int]
) -> list[list[int]]:
    """Greedy continuations, all prompts as one left-padded batch.

    Args:
        model: a decoder as `load_original` returns it.
        prompts: token ids.
        tokens: most tokens to add to each.
        eos: ids that end an answer; the answer holds the end token.
    """
    from transformers import GenerationConfig

    generator: Any = model
    longest = max(map(len, prompts))
    ids = torch.zeros((len(prompts), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    # A fresh configuration: what the model's own asks for (sampling, penalties) is not greedy.
    config = GenerationConfig(
        max_new_tokens=tokens, do_sample=False, eos_token_id=list(eos) or None, pad_token_id=0
    )
    with torch.inference_mode():
        found = generator.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    return [_cut(row, eos) for row in found[:, longest:].tolist()]


def _cut(answer: list[int], eos: Sequence[int]) -> list[int]:
    """The answer up to and with its end token; what follows is padding."""
    end = next((i for i, token in enumerate(answer) if token in eos), len(answer))
    return answer[: end + 1]
