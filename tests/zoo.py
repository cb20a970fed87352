"""Tiny random models of thirteen architectures, with every feature active.

A random model with default initialisation hides mistakes: norms of one, biases of zero, windows longer than
the text and soft-caps far above the scores change nothing, so a compiler may drop them unnoticed. Here every
weight is drawn at
a scale that matters, and each entry lists switches: changes that turn one feature off. A test proves of
every switch that it moves the logits by at least a hundred times the bar that compiled models are held to.
"""

from __future__ import annotations

import copy
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

BAR = 1e-4  # largest logit error allowed
TEXT = 24  # tokens; longer than every window
WINDOW = 6
VOCAB = 160
_BASE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_FULL = ["full_attention"] * 3
_MIXED = ["sliding_attention", "full_attention", "sliding_attention"]


@dataclass(frozen=True)
class Switch:
    """One feature turned off: by configuration (the weights stay), or by setting the weights that match to a
    value."""

    config: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    value: float = 0.0


@dataclass(frozen=True)
class Entry:
    """One architecture: transformers' configuration class, its arguments, and what can be switched off."""

    config: str
    arguments: Mapping[str, Any]
    switches: Mapping[str, Switch]
    norm_plus_one: bool = False  # norm weights are stored as weight - 1


def _rope(**extra: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0} | extra


_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_GEMMA3_ROPE = {
    "full_attention": _rope(rope_theta=100.0, rope_type="linear", factor=4.0),
    "sliding_attention": _rope(),
}

ZOO: dict[str, Entry] = {
    "llama": Entry(
        "LlamaConfig",
        _BASE
        | {
            "attention_bias": True,
            "mlp_bias": True,
            "rope_parameters": _LLAMA3,
            "tie_word_embeddings": False,
        },
        {
            "rope scaling": Switch({"rope_parameters": _rope()}),
            "attention bias": Switch(weights=r"self_attn\.\w+\.bias"),
            "mlp bias": Switch(weights=r"mlp\.\w+\.bias"),
            "norm weight": Switch(weights=r"norm\.weight", value=1.0),
        },
    ),
    "qwen2": Entry(
        "Qwen2Config",
        _BASE
        | {
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "layer_types": _MIXED,
            "tie_word_embeddings": True,
        },
        {
            "window": Switch({"layer_types": _FULL}),
            "query bias": Switch(weights=r"q_proj\.bias"),
            "value bias": Switch(weights=r"v_proj\.bias"),
        },
    ),
    "qwen3": Entry(
        "Qwen3Config",
        _BASE | {"head_dim": 32, "tie_word_embeddings": True, "rope_parameters": _rope(rope_theta=1000.0)},
        {
            "query norm": Switch(weights=r"q_norm\.weight", value=1.0),
            "key norm": Switch(weights=r"k_norm\.weight", value=1.0),
            "rope base": Switch({"rope_parameters": _rope()}),
        },
    ),
    "mistral": Entry(
        "MistralConfig",
        _BASE | {"sliding_window": WINDOW, "head_dim": 32, "tie_word_embeddings": False},
        {
            "window": Switch({"sliding_window": None}),
            "rope base": Switch({"rope_parameters": _rope(rope_theta=100.0)}),
        },
    ),
    "gemma2": Entry(
        "Gemma2Config",
        _BASE
        | {
            "head_dim": 32,
            "sliding_window": WINDOW,
            "layer_types": _MIXED,
            "query_pre_attn_scalar": 20,
            "attn_logit_softcapping": 1.5,
            "final_logit_softcapping": 2.0,
        },
        {
            "window": Switch({"layer_types": _FULL}),
            "attention softcap": Switch({"attn_logit_softcapping": None}),
            "final softcap": Switch({"final_logit_softcapping": None}),
            "query scale": Switch({"query_pre_attn_scalar": 32}),
        },
        norm_plus_one=True,
    ),
    "gemma3": Entry(
        "Gemma3TextConfig",
        _BASE
        | {
            "head_dim": 32,
            "sliding_window": WINDOW,
            "layer_types": _MIXED,
            "query_pre_attn_scalar": 20,
            "rope_parameters": _GEMMA3_ROPE,
        },
        {
            "window": Switch({"layer_types": _FULL, "rope_parameters": _GEMMA3_ROPE}),
            "local rope": Switch(
                {"rope_parameters": {"full_attention": _rope(), "sliding_attention": _rope(rope_theta=100.0)}}
            ),
            "query norm": Switch(weights=r"q_norm\.weight"),
        },
        norm_plus_one=True,
    ),
    "phi3": Entry(
        "Phi3Config",
        _BASE
        | {
            "sliding_window": WINDOW,
            "rope_parameters": _rope(partial_rotary_factor=0.5),
            "tie_word_embeddings": False,
        },
        {
            "window": Switch({"sliding_window": None}),
            "partial rotary": Switch({"rope_parameters": _rope(partial_rotary_factor=1.0)}),
        },
    ),
    "gpt2": Entry(
        "GPT2Config",
        {
            "vocab_size": VOCAB,
            "n_embd": 64,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 128,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "scale_attn_by_inverse_layer_idx": True,
        },
        {
            "inverse layer scale": Switch({"scale_attn_by_inverse_layer_idx": False}),
            "attention bias": Switch(weights=r"c_attn\.bias"),
            "norm bias": Switch(weights=r"ln_\d\.bias"),
            "positions": Switch(weights=r"wpe\.weight"),
        },
    ),
    "gpt_neox": Entry(
        "GPTNeoXConfig",
        {key: value for key, value in _BASE.items() if key != "num_key_value_heads"}
        | {
            "rope_parameters": _rope(partial_rotary_factor=0.5),
            "use_parallel_residual": True,
            "tie_word_embeddings": False,
        },
        {
            "partial rotary": Switch({"rope_parameters": _rope(partial_rotary_factor=1.0)}),
            "parallel residual": Switch({"use_parallel_residual": False}),
            "attention bias": Switch(weights=r"query_key_value\.bias"),
        },
    ),
    "opt": Entry(
        "OPTConfig",
        {
            "vocab_size": VOCAB,
            "hidden_size": 64,
            "ffn_dim": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
            "word_embed_proj_dim": 128,
            "do_layer_norm_before": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        {
            "positions": Switch(weights=r"embed_positions\.weight"),
            "attention bias": Switch(weights=r"(q|k|v|out)_proj\.bias"),
            "norm first": Switch({"do_layer_norm_before": False}),
        },
    ),
    "olmo2": Entry(
        "Olmo2Config",
        _BASE | {"tie_word_embeddings": False},
        {
            "query norm": Switch(weights=r"q_norm\.weight", value=1.0),
            "post norm": Switch(weights=r"post_\w+\.weight", value=1.0),
        },
    ),
    "granite": Entry(
        "GraniteConfig",
        _BASE
        | {
            "attention_bias": True,
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.4,
            "residual_multiplier": 0.6,
            "logits_scaling": 2.0,
            "tie_word_embeddings": True,
        },
        {
            "embedding multiplier": Switch({"embedding_multiplier": 1.0}),
            "attention multiplier": Switch({"attention_multiplier": 0.25}),
            "residual multiplier": Switch({"residual_multiplier": 1.0}),
            "logits scaling": Switch({"logits_scaling": 1.0}),
        },
    ),
    "granite_swa": Entry(
        "GraniteSWAConfig",
        _BASE
        | {
            "sliding_window": WINDOW,
            "layer_types": _MIXED,
            "layer_rope_theta": [10000.0, 0.0, 100.0],
            "attention_multiplier": 0.25,
            "tie_word_embeddings": True,
        },
        {
            "window": Switch({"layer_types": _FULL}),
            "rope of layers": Switch({"layer_rope_theta": [10000.0] * 3}),
            "sinks": Switch(weights=r"self_attn\.sinks", value=-1e4),
        },
    ),
}
NAMES = tuple(ZOO)


def config_of(name: str, **changes: Any) -> Any:
    """A fresh configuration of entry `name` (or of `mixtral`, which is there to be refused)."""
    import transformers

    if name == "mixtral":
        return transformers.MixtralConfig(**_BASE, num_local_experts=4)
    entry = ZOO[name]
    return getattr(transformers, entry.config)(**copy.deepcopy(dict(entry.arguments) | changes))


def build(name: str, **changes: Any) -> tuple[nn.Module, Any]:
    """The eager model of entry `name` in float32 and its configuration; the same weights every time.

    `changes` are configuration fields; they don't change the weights that both versions have.
    """
    import transformers

    config = config_of(name, **changes)
    model = transformers.AutoModelForCausalLM.from_config(
        copy.deepcopy(config), attn_implementation="eager", dtype=torch.float32
    ).eval()
    plus_one = name in ZOO and ZOO[name].norm_plus_one
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(_draw(name, key, parameter, plus_one))
    model.tie_weights()
    return model, config


def _draw(name: str, key: str, parameter: Tensor, norm_plus_one: bool) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(f"{name}/{key}".encode()))
    noise = torch.randn(parameter.shape, generator=generator)
    if parameter.ndim == 1 and key.endswith("bias"):
        return noise * 0.3
    if parameter.ndim == 1:
        spread = torch.rand(parameter.shape, generator=generator) - 0.5
        return spread if norm_plus_one else spread + 1.0
    if re.search(r"(embed_tokens|wte|embed_in|embed_positions|wpe)\.weight$", key):
        return noise * 0.4
    # Conv1D of GPT-2 stores [in, out], everything else [out, in].
    fan_in = parameter.shape[0] if re.search(r"\.c_(attn|fc|proj)\.weight$", key) else parameter.shape[-1]
    return noise * 1.6 / fan_in**0.5


def switched(name: str, switch: str) -> nn.Module:
    """The model of entry `name` with one feature turned off."""
    change = ZOO[name].switches[switch]
    model, _ = build(name, **change.config)
    if change.weights:
        hits = [p for key, p in model.named_parameters() if re.search(change.weights, key)]
        assert hits, f"{name}: nothing matches {change.weights}"
        with torch.no_grad():
            for parameter in hits:
                parameter.fill_(change.value)
    return model


def text(length: int = TEXT, seed: int = 0) -> Tensor:
    """Random token ids i64[length], none of them special."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB, (length,), generator=generator)


def save(name: str, directory: Path, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """Write the model as a transformers directory (safetensors, no tokenizer) and return the directory."""
    model, config = build(name, **changes)
    config.architectures = [type(model).__name__]
    model.to(dtype)
    config.dtype = dtype
    model.save_pretrained(directory)
    config.save_pretrained(directory)
    return directory
