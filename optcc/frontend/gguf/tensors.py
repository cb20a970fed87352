"""GGUF tensors -> transformers weights, one at a time, in float32."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from optcc.errors import CorruptWeights, UnsupportedArchitecture
from optcc.frontend.gguf.metadata import Architecture, Config
from optcc.frontend.gguf.reader import GgufTensor

Array = NDArray[np.float32]
_ROPE_FACTORS = "rope_freqs.weight"
# Llama 3.1 and 3.2 (factor, low, high, original context): GGUF keeps only the frequencies they lead to.
_LLAMA3 = ((8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192))


def names_by_gguf(architecture: str, layers: int, names: list[str]) -> dict[str, str]:
    """GGUF tensor name -> transformers name, for those of `names` (transformers') that GGUF knows."""
    import gguf

    arch = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
    table = gguf.get_tensor_name_map(arch, layers)
    found: dict[str, str] = {}
    for name in names:
        stem, dot, kind = name.rpartition(".")
        gguf_name = table.get_name(stem)
        if gguf_name is not None:
            found[gguf_name + dot + kind] = name
    return found


def read_tensor(tensor: GgufTensor, architecture: Architecture, config: Config) -> Array:
    """Dequantize one tensor and undo what llama.cpp's converter did to it; shape as transformers has it."""
    values, name = tensor.dequantize(), tensor.name
    if architecture.permuted and (".attn_q." in name or ".attn_k." in name):
        key = "num_attention_heads" if ".attn_q." in name else "num_key_value_heads"
        heads = config.get(key, config["num_attention_heads"])
        assert isinstance(heads, int)
        values = _unpermute(values, heads)
    if architecture.norm_plus_one and name.endswith("norm.weight"):
        values = values - np.float32(1)
    if architecture.transposed and name.startswith("blk.") and values.ndim == 2:
        values = values.T
    return np.ascontiguousarray(values)


def _unpermute(values: Array, heads: int) -> Array:
    """Rows of each head from pairs (0, C/2, 1, C/2+1, …) back to halves."""
    pairs = values.shape[0] // heads // 2
    return values.reshape(heads, pairs, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def rope_factors(tensors: Mapping[str, GgufTensor], config: Config, where: str) -> None:
    """Recognise the rotary frequencies of Llama 3.1 and later, and write them into `config`.

    Raises UnsupportedArchitecture if the file holds factors of another origin.
    """
    if "rope_factors_long.weight" in tensors or "rope_factors_short.weight" in tensors:
        raise UnsupportedArchitecture(
            "rotary positions that depend on the length of the text (longrope)", where=where
        )
    if _ROPE_FACTORS not in tensors:
        return
    stored = tensors[_ROPE_FACTORS].dequantize()
    rope = config["rope_parameters"]
    assert isinstance(rope, dict)
    for factor, low, high, context in _LLAMA3:
        theta = float(rope["rope_theta"])
        if np.allclose(stored, _llama3_factors(stored.size, theta, factor, low, high, context), rtol=1e-4):
            rope |= {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": context,
            }
            return
    raise UnsupportedArchitecture(
        "rotary frequency factors of unknown origin (rope_freqs.weight)", where=where
    )


def _llama3_factors(count: int, theta: float, factor: float, low: float, high: float, context: int) -> Array:
    """What llama.cpp stores: by how much each frequency is divided. Source: Llama 3.1's apply_scaling."""
    wavelength = 2 * np.pi * theta ** (np.arange(count) / count)
    smooth = (context / wavelength - low) / (high - low)
    middle = 1 / ((1 - smooth) / factor + smooth)
    factors = np.where(wavelength < context / high, 1.0, np.where(wavelength > context / low, factor, middle))
    return factors.astype(np.float32)


def check_complete(wanted: Mapping[str, str], tensors: Mapping[str, GgufTensor], where: str) -> None:
    """Every tensor has its place and every place its tensor. Raises CorruptWeights."""
    missing = sorted(name for name in wanted if name not in tensors and name != "output.weight")
    left = sorted(name for name in tensors if name not in wanted and name != _ROPE_FACTORS)
    for problem, names in (("missing", missing), ("without a place in the model", left)):
        if names:
            raise CorruptWeights(f"{len(names)} tensors are {problem}: {', '.join(names[:4])}", where=where)
