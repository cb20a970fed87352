"""The original model as the check sees it: logits of a window, greedy answers, named outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from optcc.frontend import LoadOptions, ModelSource, load_original
from optcc.frontend.greedy import greedy_answers, token_times
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
        """Greedy continuations of at most `tokens` tokens, up to and with an end token."""
        return greedy_answers(self.model, prompts, tokens, eos)

    def token_times(self, prompt: Sequence[int], tokens: int, requests: int = 1) -> list[float]:
        """Seconds from the start to each of `tokens` greedy tokens, of equal requests side by side."""
        return token_times(self.model, prompt, tokens, requests)

    def call(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Named inputs to named outputs, for encoders and factories."""
        arguments = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in inputs.items()}
        with torch.inference_mode():
            result = self.model(**arguments)
        values = list(result) if isinstance(result, tuple | list) else [result]
        if isinstance(result, Mapping):
            values = list(result.values())
        return {name: value.float().numpy() for name, value in zip(outputs, values, strict=True)}
