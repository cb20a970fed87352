"""The original model as the check sees it: logits of a window, greedy answers, named outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from optcc.frontend import LoadOptions, ModelSource, load_original
from optcc.frontend.upcast import compute_in_float32

Array = npt.NDArray[Any]


class Original:
    """The user's model in its authors' own code, computing in float32 over mapped weights."""

    def __init__(self, source: ModelSource, options: LoadOptions) -> None:
        self.model: nn.Module = compute_in_float32(load_original(source, None, options)).eval()

    def logits(self, window: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.float32]]:
        """i64[S] -> one block f32[S, V]."""
        model: Any = self.model
        with torch.inference_mode():
            yield model(input_ids=torch.from_numpy(window)[None], use_cache=False).logits[0].float().numpy()

    def answer(self, prompts: Sequence[Sequence[int]], tokens: int, eos: Sequence[int]) -> list[list[int]]:
        """Greedy continuations, all prompts as one left-padded batch.

        Args:
            prompts: token ids.
            tokens: most tokens to add to each.
            eos: ids that end an answer; the answer holds the end token.
        """
        from transformers import GenerationConfig

        model: Any = self.model
        longest = max(map(len, prompts))
        ids = torch.zeros((len(prompts), longest), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        # A fresh configuration: what the model's own asks for (sampling, penalties) is not greedy.
        config = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=list(eos) or None, pad_token_id=0)
        with torch.inference_mode():
            found = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        return [_cut(row, eos) for row in found[:, longest:].tolist()]

    def call(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Named inputs to named outputs, for encoders and factories."""
        arguments = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in inputs.items()}
        with torch.inference_mode():
            result = self.model(**arguments)
        values = list(result) if isinstance(result, tuple | list) else [result]
        if isinstance(result, Mapping):
            values = list(result.values())
        return {name: value.float().numpy() for name, value in zip(outputs, values, strict=True)}


def _cut(answer: list[int], eos: Sequence[int]) -> list[int]:
    """The answer up to and with its end token; what follows is padding."""
    end = next((i for i, token in enumerate(answer) if token in eos), len(answer))
    return answer[: end + 1]
