"""Attention: stateless over ragged tokens, over a paged KV cache, and bidirectional for encoders.

Source of the paged form: Kwon et al., "Efficient Memory Management for Large Language Model Serving with
PagedAttention", 2023. Letters: T tokens of the step, R requests, H query heads, G KV heads, C head width, N pool
blocks, K tokens per block, M blocks per table, B batch, S sequence.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from optcc.ir.ops.library import define

_PACKED = (torch.int8, torch.float8_e4m3fn)
"""Types of pools that need scales beside them."""


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visible: Tensor,
    scale: float,
    softcap: float,
    sinks: Tensor | None = None,
) -> Tensor:
    """One request: q [Q,H,C], k and v [L,G,C], visible bool [Q,L] -> [Q,H,C]; H/G heads share a KV head."""
    heads, kv_heads = q.shape[1], k.shape[1]
    k = k.repeat_interleave(heads // kv_heads, dim=1)
    v = v.repeat_interleave(heads // kv_heads, dim=1)
    scores = torch.einsum("qhc,lhc->hql", q.float(), k.float()) * scale
    if softcap > 0:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~visible, float("-inf"))
    if sinks is None:
        weights = scores.softmax(-1)
    else:
        column = sinks.float()[:, None, None].expand(*scores.shape[:2], 1)
        weights = torch.cat([scores, column], -1).softmax(-1)[..., :-1]
    return torch.einsum("hql,lhc->qhc", weights, v.float()).to(q.dtype)


def _causal(first: int, queries: int, keys: int, window: int, device: torch.device) -> Tensor:
    """Bool [queries, keys]: query i stands at first + i and sees keys up to itself, at most `window`."""
    query = torch.arange(first, first + queries, device=device)[:, None]
    key = torch.arange(keys, device=device)[None, :]
    visible = key <= query
    return visible & (key > query - window) if window > 0 else visible


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_starts: Tensor,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
) -> Tensor:
    """Causal attention of whole sequences laid end to end.

    Shapes: q [T,H,C], k and v [T,G,C], query_starts i32[R+1] (row where each request starts, then T) -> [T,H,C].
    With `window` > 0 a query sees itself and the window - 1 keys before it; with `softcap` > 0 scores become
    softcap * tanh(score / softcap) before masking. With `sinks` [H] each head's softmax has one more score, which is
    neither scaled nor capped and has no value: what a query gives to it, it gives to no key (Agarwal et al.,
    "gpt-oss-120b & gpt-oss-20b Model Card", 2025, after Xiao et al., "Efficient Streaming Language Models with
    Attention Sinks", 2024).
    """
    out = torch.empty_like(q)
    starts = query_starts.tolist()
    for begin, end in pairwise(starts):
        count = end - begin
        visible = _causal(0, count, count, window, q.device)
        out[begin:end] = _attend(q[begin:end], k[begin:end], v[begin:end], visible, scale, softcap, sinks)
    return out


def paged_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    positions: Tensor,
    query_starts: Tensor,
    kv_lengths: Tensor,
    block_table: Tensor,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
    k_scale_pool: Tensor | None = None,
    v_scale_pool: Tensor | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Write the step's keys and values to their pages, then attend over each request's pages.

    Shapes: q [T,H,C], k and v [T,G,C], pools [N,K,G,C] (changed in place), positions i64[T], query_starts i32[R+1],
    kv_lengths i32[R] (length after this step), block_table i32[R,M] -> [T,H,C]. Position p of a request lives in
    block block_table[r, p // K] at offset p % K.

    Keys and values are rounded to the pools' type, and widened to q's when they are read. Quantized ones come packed,
    int8 or e4m3, with the scales k_scale and v_scale [T,G,1] that `quantize_activation` gave them; the scale pools
    [N,K,G,1] keep those. A token is quantized once, from its own values alone, so what a query sees doesn't depend on
    how the text was cut into steps.
    """
    out = torch.empty_like(q)
    block_size = k_pool.shape[1]
    starts = query_starts.tolist()
    writes = [(k_pool, k), (v_pool, v)]
    writes += [
        (p, s)
        for p, s in ((k_scale_pool, k_scale), (v_scale_pool, v_scale))
        if p is not None and s is not None
    ]
    for request, (begin, end) in enumerate(pairwise(starts)):
        table = block_table[request].long()
        position = positions[begin:end]
        block, offset = table[position // block_size], position % block_size
        for pool, rows in writes:
            pool[block, offset] = rows[begin:end].to(pool.dtype)
        length = int(kv_lengths[request])
        pages = table[: (length + block_size - 1) // block_size]
        keys = _read_pages(k_pool, k_scale_pool, pages, length, q.dtype)
        values = _read_pages(v_pool, v_scale_pool, pages, length, q.dtype)
        visible = _causal(length - (end - begin), end - begin, length, window, q.device)
        out[begin:end] = _attend(q[begin:end], keys, values, visible, scale, softcap, sinks)
    return out


def _read_pages(
    pool: Tensor, scale_pool: Tensor | None, pages: Tensor, length: int, dtype: torch.dtype
) -> Tensor:
    """The first `length` keys or values [L,G,C] of a request; packed ones as `dequantize` gives them."""
    held = pool[pages].flatten(0, 1)[:length]
    if scale_pool is None:
        return held
    steps = scale_pool[pages].flatten(0, 1)[:length]
    return (held.to(torch.float32) * steps.to(torch.float32)).to(dtype)


def masked_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, softcap: float = 0.0
) -> Tensor:
    """Bidirectional attention of a padded batch.

    Shapes: q [B,S,H,C], k and v [B,S,G,C], mask bool [B,S] (true: a real token) or None -> [B,S,H,C].
    """
    out = torch.empty_like(q)
    for row in range(q.shape[0]):
        length = q.shape[1]
        seen = q.new_ones(length, dtype=torch.bool) if mask is None else mask[row]
        visible = seen[None, :].expand(length, length)
        out[row] = _attend(q[row], k[row], v[row], visible, scale, softcap)
    return out


def _check_heads(q: Tensor, k: Tensor, v: Tensor) -> None:
    torch._check(
        q.shape[-2] % k.shape[-2] == 0, lambda: f"attention: {q.shape[-2]} heads over {k.shape[-2]} KV heads"
    )
    torch._check(
        k.shape[-1] == q.shape[-1], lambda: f"attention: head widths {q.shape[-1]} and {k.shape[-1]} differ"
    )
    torch._check(
        v.shape[-1] == q.shape[-1], lambda: f"attention: head widths {q.shape[-1]} and {v.shape[-1]} differ"
    )


def _check_sinks(q: Tensor, sinks: Tensor | None) -> None:
    torch._check(
        sinks is None or tuple(sinks.shape) == (q.shape[-2],),
        lambda: (
            f"attention: sinks of shape {tuple(sinks.shape) if sinks is not None else ()} "
            f"for {q.shape[-2]} heads"
        ),
    )


def _attention_fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_starts: Tensor,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
) -> Tensor:
    _check_heads(q, k, v)
    _check_sinks(q, sinks)
    return q.new_empty(q.shape)


def _paged_attention_fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    positions: Tensor,
    query_starts: Tensor,
    kv_lengths: Tensor,
    block_table: Tensor,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
    k_scale_pool: Tensor | None = None,
    v_scale_pool: Tensor | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    _check_heads(q, k, v)
    _check_sinks(q, sinks)
    torch._check(
        k_pool.shape[-2] == k.shape[-2], lambda: f"paged_attention: pool {k_pool.shape} for keys {k.shape}"
    )
    packed = k_pool.dtype in _PACKED
    scales = (k_scale, v_scale, k_scale_pool, v_scale_pool)
    torch._check(
        all((s is not None) == packed for s in scales),
        lambda: f"paged_attention: {k_pool.dtype} pools {'need' if packed else 'have no'} scales",
    )
    torch._check(
        not packed or k_pool.dtype == v_pool.dtype == k.dtype == v.dtype,
        lambda: f"paged_attention: {k.dtype} keys and {v.dtype} values for {k_pool.dtype} pools",
    )
    return q.new_empty(q.shape)


def _masked_attention_fake(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, softcap: float = 0.0
) -> Tensor:
    _check_heads(q, k, v)
    return q.new_empty(q.shape)


define(
    "attention(Tensor q, Tensor k, Tensor v, Tensor query_starts, float scale, int window=0, float softcap=0.0, "
    "Tensor? sinks=None) -> Tensor",
    attention,
    _attention_fake,
)
define(
    "paged_attention(Tensor q, Tensor k, Tensor v, Tensor(a!) k_pool, Tensor(b!) v_pool, Tensor positions, "
    "Tensor query_starts, Tensor kv_lengths, Tensor block_table, float scale, int window=0, float softcap=0.0, "
    "Tensor? k_scale=None, Tensor? v_scale=None, Tensor(c!)? k_scale_pool=None, Tensor(d!)? v_scale_pool=None, "
    "Tensor? sinks=None) -> Tensor",
    paged_attention,
    _paged_attention_fake,
)
define(
    "masked_attention(Tensor q, Tensor k, Tensor v, Tensor? mask, float scale, float softcap=0.0) -> Tensor",
    masked_attention,
    _masked_attention_fake,
)
