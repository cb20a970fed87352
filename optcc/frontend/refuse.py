"""Architectures that can't be compiled, recognised from the configuration alone, before any weight is
read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from optcc.errors import UnsupportedArchitecture

Config = Mapping[str, object]
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts")
_STATE_SPACE = (
    "ssm_cfg",
    "state_size",
    "mamba_d_state",
    "mamba_expand",
    "ssm_state_size",
    "rnn_hidden_size",
    "lru_width",
)
_STATE_SPACE_TYPES = ("mamba", "mamba2", "rwkv", "falcon_mamba", "recurrent_gemma", "lfm2", "xlstm")
_LAYER_TYPES = {"full_attention", "sliding_attention"}
_ROPE_BY_LENGTH = ("dynamic", "longrope", "su")


def _experts(config: Config) -> str | None:
    for key in _EXPERTS:
        count = config.get(key)
        if isinstance(count, int) and count > 0:
            return f"mixture of experts ({key} = {count})"
    return "mixture of experts (mixtral)" if config.get("model_type") == "mixtral" else None


def _state_space(config: Config) -> str | None:
    if config.get("model_type") in _STATE_SPACE_TYPES:
        return f"a state-space or recurrent model ({config['model_type']})"
    return next(
        (f"a state-space or recurrent model ({key})" for key in _STATE_SPACE if config.get(key)), None
    )


def _layer_types(config: Config) -> str | None:
    types = config.get("layer_types")
    unknown = sorted({str(t) for t in types} - _LAYER_TYPES) if isinstance(types, list | tuple) else []
    if unknown:
        return f"layers of type {', '.join(unknown)}"
    return "chunked attention (attention_chunk_size)" if config.get("attention_chunk_size") else None


def _alibi(config: Config) -> str | None:
    nested = config.get("attn_config")
    inner = isinstance(nested, Mapping) and bool(nested.get("alibi"))
    if config.get("alibi") or inner or config.get("model_type") in ("bloom", "mpt"):
        return "ALiBi position biases"
    return None


def _rope(config: Config) -> str | None:
    for key in ("rope_parameters", "rope_scaling"):
        for entry in _rope_entries(config.get(key)):
            kind = entry.get("rope_type", entry.get("type"))
            if kind in _ROPE_BY_LENGTH:
                return f"rotary positions that depend on the length of the text (rope_type {kind})"
    return None


def _rope_entries(value: object) -> Iterator[Mapping[str, object]]:
    if isinstance(value, Mapping):
        yield value
        for inner in value.values():
            yield from _rope_entries(inner)


def _multimodal(config: Config) -> str | None:
    key = next((key for key in ("vision_config", "audio_config", "speech_config") if config.get(key)), None)
    return f"a multimodal model ({key})" if key else None


_RULES: tuple[Callable[[Config], str | None], ...] = (
    _multimodal,
    lambda c: "an encoder-decoder (is_encoder_decoder)" if c.get("is_encoder_decoder") else None,
    _experts,
    _state_space,
    _layer_types,
    _alibi,
    lambda c: "multi-head latent attention (kv_lora_rank)" if c.get("kv_lora_rank") else None,
    _rope,
)


def refuse_config(config: Config, where: str) -> None:
    """Raise UnsupportedArchitecture if the configuration asks for something no graph of optcc can hold.

    Called with `config.json` as it is, and again with transformers' configuration, where defaults are filled
    in.
    """
    text = config.get("text_config")
    for part in (config, text if isinstance(text, Mapping) else {}):
        for rule in _RULES:
            feature = rule(part)
            if feature:
                kind = config.get("model_type", "this model")
                raise UnsupportedArchitecture(
                    f"{kind} can't be compiled: {feature}",
                    where=where,
                    hint="docs/models.md lists what is supported",
                )
