"""Attention enters the graph as one operator, through transformers' attention interface.

Two functions are registered under the name `optcc`. transformers calls the mask function once per kind of
mask, and passes what it returned to the attention function of every layer that uses it. So the mask function
returns a
`Visibility`, which says in words what a mask tensor would have said in numbers: no model needs code of its
own here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import optcc.ir.ops  # noqa: F401  (registers torch.ops.optcc)
from optcc.errors import UnsupportedArchitecture
from optcc.frontend.imports import defer_scipy

NAME = "optcc"
# Arguments that transformers hands to attention functions and that don't change what is computed in a
# stateless step.
_HARMLESS = {
    "position_ids",
    "cache_position",
    "use_cache",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "is_causal",
    "token_type_ids",
    "position_embeddings",
    "logits_to_keep",
    "dropout",
    "num_items_in_batch",
    "layer_idx",
}

_query_starts: ContextVar[Tensor] = ContextVar("optcc_query_starts")


@dataclass(frozen=True)
class Visibility:
    """Which keys a query sees.

    Attributes:
        causal: only keys up to itself, within its own request.
        window: at most this many keys, itself included; 0 for all.
        padding: bool [B,S], true for real tokens; None if every token is real.
    """

    causal: bool
    window: int
    padding: Tensor | None


@contextmanager
def ragged_step(query_starts: Tensor) -> Iterator[None]:
    """While this is open, attention operators are emitted for requests that start at `query_starts`
    i32[R+1]."""
    token = _query_starts.set(query_starts)
    try:
        yield
    finally:
        _query_starts.reset(token)


def register() -> None:
    """Make attention implementation `optcc` known to transformers; calling it again changes nothing."""
    defer_scipy()
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _visibility)


def _visibility(
    *,
    mask_function: Callable[..., object],
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    use_vmap: bool = False,
    **_shape: object,
) -> Visibility:
    from transformers.masking_utils import bidirectional_mask_function

    if use_vmap:
        raise UnsupportedArchitecture("the model adds a mask rule of its own to attention")
    causal = mask_function is not bidirectional_mask_function
    if not causal and local_size:
        raise UnsupportedArchitecture("sliding windows in both directions")
    if causal and attention_mask is not None:
        raise UnsupportedArchitecture("causal attention over a padded batch")
    return Visibility(causal, int(local_size or 0), attention_mask)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Visibility | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **extra: object,
) -> tuple[Tensor, None]:
    """Emit the operator: query [B,H,S,C], key and value [B,G,S,C] -> [B,S,H,C]. A step has B = 1 and S = T.

    `s_aux` [H] are attention sinks. `sliding_window` is not used: the eager function, which is what "correct" means,
    obeys the mask alone.
    """
    layer = type(module).__name__
    unknown = sorted(name for name, given in extra.items() if given is not None and name not in _HARMLESS)
    if unknown:
        raise UnsupportedArchitecture(f"{layer} passes {', '.join(unknown)} to attention")
    if not isinstance(attention_mask, Visibility):
        raise UnsupportedArchitecture(
            f"{layer} makes its attention mask outside transformers' mask interface"
        )
    if value.shape[-1] != query.shape[-1]:
        raise UnsupportedArchitecture(
            f"{layer} has values of width {value.shape[-1]}, keys of {query.shape[-1]}"
        )
    scale = float(scaling) if scaling is not None else float(query.shape[-1]) ** -0.5
    q, k, v = (tensor.transpose(1, 2) for tensor in (query, key, value))
    if not attention_mask.causal:
        if s_aux is not None:
            raise UnsupportedArchitecture(
                f"{layer} passes s_aux, attention sinks, to attention in both directions"
            )
        padding, cap = attention_mask.padding, float(softcap or 0.0)
        return torch.ops.optcc.masked_attention(q, k, v, padding, scale, cap), None
    starts = _query_starts.get()
    q, k, v = q.squeeze(0), k.squeeze(0), v.squeeze(0)
    window, cap = attention_mask.window, float(softcap or 0.0)
    out = torch.ops.optcc.attention(q, k, v, starts, scale, window, cap, s_aux)
    return out.unsqueeze(0), None
