"""GGUF metadata -> transformers configuration, for each architecture that is understood completely.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. A key of the architecture that has no
meaning here is
refused by name: it might change what the model computes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from optcc.errors import UnsupportedArchitecture

Fields = Mapping[str, object]
Names = frozenset[str]
Config = dict[str, object]

# Without the `<architecture>.` in front. They describe the file, or repeat what the tensors' shapes say.
_IGNORED = re.compile(
    r"^(rope\.scaling\.finetuned|attention\.causal|tensor_data_layout|pooling_type|rope\.dimension_count"
    r"|attention\.value_length|attention\.key_length|use_parallel_residual)$"
)
_COMMON = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "vocab_size": "vocab_size",
}
_GPT2 = {
    "context_length": "n_positions",
    "block_count": "n_layer",
    "embedding_length": "n_embd",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
    "vocab_size": "vocab_size",
}


@dataclass(frozen=True)
class Architecture:
    """How one GGUF architecture becomes a transformers model.

    Attributes:
        model_type, cls: of transformers.
        keys: GGUF key -> configuration field, copied.
        finish: sets what can't be copied; gets the configuration, the keys not copied, and the tensor names.
        permuted: query and key rows are stored in llama.cpp's interleaved rotary order.
        norm_plus_one: norm weights are stored as weight + 1.
        transposed: projections are stored as [out, in] and transformers wants [in, out].
    """

    model_type: str
    cls: str
    keys: Mapping[str, str]
    finish: Callable[[Config, dict[str, object], Names], None]
    permuted: bool = False
    norm_plus_one: bool = False
    transposed: bool = False


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)


def _whole(value: object) -> int:
    assert isinstance(value, int)
    return int(value)


def _head_dim(config: Config, rest: dict[str, object]) -> int:
    given = rest.get("attention.key_length")
    return _whole(given) if given else _whole(config["hidden_size"]) // _whole(config["num_attention_heads"])


def _rope(rest: dict[str, object], default: float = 10000.0) -> dict[str, object]:
    rope: dict[str, object] = {
        "rope_type": "default",
        "rope_theta": _number(rest.pop("rope.freq_base", default)),
    }
    kind = rest.pop("rope.scaling.type", "none")
    factor = rest.pop("rope.scaling.factor", None)
    if kind == "linear":
        rope |= {"rope_type": "linear", "factor": _number(factor)}
    elif kind != "none":
        raise UnsupportedArchitecture(f"rotary scaling {kind!r} in a GGUF file")
    return rope


def _rotary(config: Config, rest: dict[str, object], names: Names) -> None:
    rope = _rope(rest)
    config["rope_parameters"] = rope
    config["head_dim"] = _head_dim(config, rest)
    width = rest.get("rope.dimension_count")
    if width and width != config["head_dim"]:
        rope["partial_rotary_factor"] = _whole(width) / _whole(config["head_dim"])


def _llama(config: Config, rest: dict[str, object], names: Names) -> None:
    _rotary(config, rest, names)
    config["attention_bias"] = "blk.0.attn_q.bias" in names
    config["mlp_bias"] = "blk.0.ffn_up.bias" in names


def _qwen2(config: Config, rest: dict[str, object], names: Names) -> None:
    _rotary(config, rest, names)
    del config["head_dim"]  # always hidden / heads


def _phi3(config: Config, rest: dict[str, object], names: Names) -> None:
    _rotary(config, rest, names)
    del config["head_dim"]
    window = rest.pop("attention.sliding_window", None)
    config["sliding_window"] = _whole(window) if window else None
    rest.pop("rope.scaling.original_context_length", None)
    config["pad_token_id"] = None


def _granite(config: Config, rest: dict[str, object], names: Names) -> None:
    _llama(config, rest, names)
    del config["head_dim"]
    config["attention_multiplier"] = _number(rest.pop("attention.scale", 1.0))
    config["embedding_multiplier"] = _number(rest.pop("embedding_scale", 1.0))
    config["residual_multiplier"] = _number(rest.pop("residual_scale", 1.0))
    config["logits_scaling"] = _number(rest.pop("logit_scale", 1.0))


def _gemma2(config: Config, rest: dict[str, object], names: Names) -> None:
    _rotary(config, rest, names)
    config["sliding_window"] = _whole(rest.pop("attention.sliding_window", 4096))
    config["attn_logit_softcapping"] = _number(rest.pop("attn_logit_softcapping", 50.0))
    config["final_logit_softcapping"] = _number(rest.pop("final_logit_softcapping", 30.0))
    config["query_pre_attn_scalar"] = _gemma_scalar(config, largest=46)


def _gemma3(config: Config, rest: dict[str, object], names: Names) -> None:
    full = _rope(rest, default=1_000_000.0)
    local = _number(rest.pop("rope.freq_base_swa", 10000.0))
    config["rope_parameters"] = {
        "full_attention": full,
        "sliding_attention": {"rope_type": "default", "rope_theta": local},
    }
    config["head_dim"] = _head_dim(config, rest)
    config["sliding_window"] = _whole(rest.pop("attention.sliding_window", 1024))
    period = _whole(rest.pop("attention.sliding_window_pattern", 6))
    layers = range(1, _whole(config["num_hidden_layers"]) + 1)
    config["layer_types"] = ["sliding_attention" if layer % period else "full_attention" for layer in layers]
    cap = rest.pop("final_logit_softcapping", None)
    config["final_logit_softcapping"] = _number(cap) if cap else None
    config["attn_logit_softcapping"] = None
    config["query_pre_attn_scalar"] = _gemma_scalar(config, largest=62)


def _gemma_scalar(config: Config, largest: int) -> int:
    """GGUF doesn't store it. The 27B models, known by their layer count, scale by hidden / heads, all others
    by head width."""
    if config["num_hidden_layers"] == largest:
        return _whole(config["hidden_size"]) // _whole(config["num_attention_heads"])
    return _whole(config["head_dim"])


def _nothing(config: Config, rest: dict[str, object], names: Names) -> None:
    """GPT-2: its keys say everything."""


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama", "LlamaForCausalLM", _COMMON, _llama, permuted=True),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM", _COMMON, _qwen2),
    "qwen3": Architecture("qwen3", "Qwen3ForCausalLM", _COMMON, _rotary),
    "gemma2": Architecture("gemma2", "Gemma2ForCausalLM", _COMMON, _gemma2, norm_plus_one=True),
    "gemma3": Architecture("gemma3_text", "Gemma3ForCausalLM", _COMMON, _gemma3, norm_plus_one=True),
    "phi3": Architecture("phi3", "Phi3ForCausalLM", _COMMON, _phi3),
    "granite": Architecture("granite", "GraniteForCausalLM", _COMMON, _granite, permuted=True),
    "olmo2": Architecture("olmo2", "Olmo2ForCausalLM", _COMMON, _qwen2),
    "gpt2": Architecture("gpt2", "GPT2LMHeadModel", _GPT2, _nothing, transposed=True),
}


def to_config(
    name: str, fields: Fields, tensors: Names, vocab: int, where: str
) -> tuple[Architecture, Config]:
    """The architecture and its configuration as `config.json` would hold it.

    `vocab` is the number of rows of the embedding, which decides over what the metadata says.

    Raises UnsupportedArchitecture for an unknown architecture, key, or experts.
    """
    architecture = ARCHITECTURES.get(name)
    if architecture is None:
        known = ", ".join(ARCHITECTURES)
        raise UnsupportedArchitecture(f"GGUF architecture {name!r}", where=where, hint=f"supported: {known}")
    own = {key.removeprefix(f"{name}."): value for key, value in fields.items() if key.startswith(f"{name}.")}
    rest = {key: value for key, value in own.items() if key not in architecture.keys}
    if rest.get("expert_count"):
        raise UnsupportedArchitecture(
            f"mixture of experts (expert_count = {rest['expert_count']})", where=where
        )
    rest = {key: value for key, value in rest.items() if not key.startswith("expert_")}
    config: Config = {field: own[key] for key, field in architecture.keys.items() if key in own}
    config |= {
        "model_type": architecture.model_type,
        "architectures": [architecture.cls],
        "vocab_size": vocab,
    }
    config["tie_word_embeddings"] = "output.weight" not in tensors
    try:
        architecture.finish(config, rest, tensors)
    except (KeyError, AssertionError) as error:
        raise UnsupportedArchitecture(
            f"the metadata of this {name} file is incomplete ({error})", where=where
        ) from error
    unknown = sorted(key for key in rest if not _IGNORED.match(key))
    if unknown:
        raise UnsupportedArchitecture(f"{name} with metadata {', '.join(unknown)}", where=where)
    for role in ("bos", "eos", "padding"):
        token = fields.get(f"tokenizer.ggml.{role}_token_id")
        config["pad_token_id" if role == "padding" else f"{role}_token_id"] = token
    ends = sorted(
        {
            t
            for key in ("eos", "eot", "eom")
            if isinstance(t := fields.get(f"tokenizer.ggml.{key}_token_id"), int)
        }
    )
    if len(ends) > 1:
        config["eos_token_id"] = ends
    return architecture, config
