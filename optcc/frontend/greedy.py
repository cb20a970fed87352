"""Greedy answers from transformers' own generation loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_NARROW = range(8, 49)
"""Rows for which float32 libraries compute W x^T two to three times faster than x W^T (AMD EPYC, MKL: 0.35 ms
against 0.9 ms for 24 rows of 576 x 1536); with fewer or more rows they are equal."""


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
    longest = max(map(len, prompts))
    ids = torch.zeros((len(prompts), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    with _NarrowLinears():
        found = _generate(model, ids, mask, tokens, eos, None)
    return [_cut(row, eos) for row in found[:, longest:].tolist()]


def token_times(model: nn.Module, prompt: Sequence[int], tokens: int, requests: int = 1) -> list[float]:
    """Seconds after the start at which each of `tokens` greedy tokens was there, by transformers as it is.

    The first is the time of the prompt, the differences are those of single steps, each a token of all `requests`.
    """
    ids = torch.tensor([list(prompt)] * requests)
    clock = _Clock()
    _generate(model, ids, torch.ones_like(ids), tokens, (), clock)
    return clock.seconds


def _generate(
    model: nn.Module, ids: Tensor, mask: Tensor, tokens: int, eos: Sequence[int], streamer: _Clock | None
) -> Tensor:
    """i64[B,S] -> i64[B,S+n]."""
    from transformers import GenerationConfig

    generator: Any = model
    # A fresh configuration: what the model's own asks for (sampling, penalties) is not greedy.
    config = GenerationConfig(
        max_new_tokens=tokens, do_sample=False, eos_token_id=list(eos) or None, pad_token_id=0
    )
    with torch.inference_mode():
        found: Tensor = generator.generate(
            input_ids=ids, attention_mask=mask, generation_config=config, streamer=streamer
        )
    return found


class _Clock:
    """What transformers calls a streamer: told of the prompt once, then of every token."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began = time.perf_counter()
        self._prompt = True

    def put(self, value: Tensor) -> None:
        """Note the time of a token."""
        if not self._prompt:
            self.seconds.append(time.perf_counter() - self._began)
        self._prompt = False

    def end(self) -> None:
        """Nothing is left to do."""


class _NarrowLinears(TorchFunctionMode):
    """Computes linears over few rows as (W x^T)^T: the same products and sums, in the order the library is fast at.

    Only where the weight is the model's own: one widened for a single call is read once, which takes longer than the
    products do, and the library's packed copies of it would stay (300 MB with layers of 5632 x 2048).
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is functional.linear and not kwargs:
            x, weight = args[0], args[1]
            own = isinstance(weight, nn.Parameter) and x.dtype == weight.dtype == torch.float32
            if own and x.numel() // x.shape[-1] in _NARROW:
                result = (weight @ x.reshape(-1, x.shape[-1]).t()).t().reshape(*x.shape[:-1], len(weight))
                return result if len(args) < 3 or args[2] is None else result + args[2]
        return func(*args, **(kwargs or {}))


def _cut(answer: list[int], eos: Sequence[int]) -> list[int]:
    """The answer up to and with its end token; what follows is padding."""
    end = next((i for i, token in enumerate(answer) if token in eos), len(answer))
    return answer[: end + 1]
