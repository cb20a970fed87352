"""GGUF files become the models they were made from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from optcc.errors import CannotWrite, CorruptWeights, ModelNotFound, UnsupportedArchitecture
from optcc.frontend import ModelSource, capture, export_tokenizer, load_original, resolve
from optcc.frontend.gguf.metadata import ARCHITECTURES
from optcc.frontend.gguf.tensors import names_by_gguf
from tests import zoo
from tests.needs import demo_model, package

gguf = package("gguf")

# What llama.cpp's converter would write: changes to the zoo's configurations that GGUF can express.
_CHANGES: dict[str, dict[str, Any]] = {
    "llama": {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}},
    "qwen2": {"layer_types": ["full_attention"] * 3},
    "qwen3": {},
    "gemma2": {"query_pre_attn_scalar": 32},
    "gemma3": {
        "query_pre_attn_scalar": 32,
        "layer_types": ["sliding_attention"] * 3,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    },
    "phi3": {},
    "granite": {},
    "olmo2": {},
    "gpt2": {"scale_attn_by_inverse_layer_idx": False},
}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTCC_CACHE", str(tmp_path / "cache"))


def _metadata(name: str, writer: Any, config: Any) -> None:
    writer.add_context_length(128)
    writer.add_block_count(3)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(256 if name == "gpt2" else 128)
    writer.add_head_count(4)
    if name == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    writer.add_rope_freq_base((rope.get("full_attention") or rope)["rope_theta"])
    head = getattr(config, "head_dim", None) or 16
    if name in ("qwen3", "gemma2", "gemma3"):
        writer.add_key_length(head)
        writer.add_value_length(head)
    if name in ("gemma2", "gemma3", "phi3"):
        writer.add_sliding_window(config.sliding_window)
    if name == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if name == "gemma3":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(8.0)
    if name == "phi3":
        writer.add_rope_dimension_count(8)
    if name == "granite":
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)


def _write(name: str, path: Path, quantize: Any = None) -> torch.nn.Module:
    """Write the zoo's model as llama.cpp's converter does, independently of the code under test."""
    model, config = zoo.build(name, **_CHANGES[name])
    form = ARCHITECTURES[name]
    writer = gguf.GGUFWriter(path, name)
    _metadata(name, writer, config)
    writer.add_eos_token_id(2)
    tied = config.tie_word_embeddings
    weights = {
        k: v for k, v in model.named_parameters(remove_duplicate=True) if not (tied and k == "lm_head.weight")
    }
    for gguf_name, hf_name in names_by_gguf(name, 3, list(weights)).items():
        value = weights[hf_name].detach().numpy()
        if form.permuted and (".attn_q." in gguf_name or ".attn_k." in gguf_name):
            heads = 4 if ".attn_q." in gguf_name else 2
            value = (
                value.reshape(heads, 2, value.shape[0] // heads // 2, *value.shape[1:])
                .swapaxes(1, 2)
                .reshape(value.shape)
            )
        if form.norm_plus_one and gguf_name.endswith("norm.weight"):
            value = value + 1
        if form.transposed and gguf_name.startswith("blk.") and value.ndim == 2:
            value = value.T
        value = np.ascontiguousarray(value)
        if quantize is not None and value.ndim == 2:
            writer.add_tensor(gguf_name, gguf.quants.quantize(value, quantize), raw_dtype=quantize)
        else:
            writer.add_tensor(gguf_name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


@pytest.mark.parametrize("name", list(_CHANGES))
def test_round_trip(name: str, tmp_path: Path) -> None:
    model = _write(name, tmp_path / "model.gguf")
    original = load_original(resolve(str(tmp_path / "model.gguf")))
    tokens = zoo.text()[None]
    with torch.no_grad():
        # Norm weights lose a bit when 1 is added and subtracted; everything else is exact.
        assert (original(tokens).logits - model(tokens).logits).abs().max() <= zoo.BAR


def test_quantized_blocks(tmp_path: Path, evaluate: Callable[..., Any], ragged: Callable[..., Any]) -> None:
    _write("llama", tmp_path / "model.gguf", gguf.GGMLQuantizationType.Q8_0)
    source = resolve(str(tmp_path / "model.gguf"))
    assert source.directory is not None
    assert source.name == "model"
    stored = load_file(source.directory / "model.safetensors")
    weight = zoo.build("llama", **_CHANGES["llama"])[0].get_parameter(
        "model.layers.0.self_attn.q_proj.weight"
    )
    error = (stored["model.layers.0.self_attn.q_proj.weight"] - weight).abs().max()
    assert 0 < error < 0.01
    text = zoo.text()
    with torch.no_grad():
        want = load_original(source)(text[None]).logits[0]
    assert (evaluate(capture(source), ragged([text])) - want).abs().max() <= zoo.BAR


def test_conversion_is_done_once_and_is_deterministic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write("qwen2", tmp_path / "model.gguf")
    first = resolve(str(tmp_path / "model.gguf")).directory
    assert first is not None
    data, written = (
        (first / "model.safetensors").read_bytes(),
        (first / "model.safetensors").stat().st_mtime_ns,
    )
    assert resolve(str(tmp_path / "model.gguf")).directory == first
    assert (first / "model.safetensors").stat().st_mtime_ns == written
    monkeypatch.setenv("OPTCC_CACHE", str(tmp_path / "other"))
    again = resolve(str(tmp_path / "model.gguf")).directory
    assert again is not None
    assert again != first
    assert (again / "model.safetensors").read_bytes() == data
    assert [path.name for path in again.parent.iterdir()] == [again.name]


@pytest.mark.parametrize("keep", [0, 3, 30, 300, 3000, -1])
def test_truncated_file(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "model.gguf"
    _write("llama", path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptWeights, match=r"model\.gguf"):
        resolve(str(path))
    assert not (tmp_path / "cache").exists()


def test_not_a_gguf_file(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"PK" + bytes(100))
    with pytest.raises(CorruptWeights, match="GGUF"):
        resolve(str(tmp_path / "model.gguf"))
    with pytest.raises(ModelNotFound):
        resolve(str(tmp_path / "absent.gguf"))


@pytest.mark.parametrize(
    ("architecture", "key", "value", "message"),
    [
        ("mamba", None, None, "'mamba'"),
        ("llama", "llama.expert_count", 8, "mixture of experts"),
        ("llama", "llama.attention.max_alibi_bias", 8, "attention.max_alibi_bias"),
        ("llama", "split.count", 3, "split"),
    ],
)
def test_refused_by_name(
    tmp_path: Path, architecture: str, key: str | None, value: int, message: str
) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", architecture)
    for name, number in {"embedding_length": 64, "attention.head_count": 4, "block_count": 1}.items():
        writer.add_uint32(f"{architecture}.{name}", number)
    if key:
        writer.add_uint32(key, value)
    writer.add_tensor("token_embd.weight", np.zeros((160, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedArchitecture, match=message):
        resolve(str(tmp_path / "model.gguf"))


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write("llama", tmp_path / "model.gguf")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("OPTCC_CACHE", str(tmp_path / "file"))
    with pytest.raises(CannotWrite, match="OPTCC_CACHE"):
        resolve(str(tmp_path / "model.gguf"))


def _dequantized(path: Path, heads: int, kv_heads: int) -> Iterator[tuple[str, np.ndarray]]:
    """(GGUF name, weight as transformers has it) of a Llama file, by the gguf package's reader and dequantization.

    llama.cpp's converter (`LlamaModel.permute` of its convert_hf_to_gguf.py) stores the rows of each query and key
    head as pairs (0, C/2, 1, C/2 + 1, …); row i of transformers is row 2i of the file for i < C/2, else 2i - C + 1.
    """
    for tensor in gguf.GGUFReader(path).tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        count = {"attn_q": heads, "attn_k": kv_heads}.get(tensor.name.split(".")[-2])
        if count:
            width = len(values) // count
            inside = [2 * i if i < width // 2 else 2 * i - width + 1 for i in range(width)]
            values = values[[head * width + row for head in range(count) for row in inside]]
        yield tensor.name, values


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    """The real file, converted once."""
    path = demo_model("smollm2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPTCC_CACHE", str(tmp_path_factory.mktemp("cache")))
        return resolve(str(path))


@pytest.mark.e2e
def test_smollm2_weights_are_the_files_dequantized(smollm2: ModelSource) -> None:
    assert smollm2.directory is not None
    stored = load_file(smollm2.directory / "model.safetensors")
    names = names_by_gguf("llama", 30, list(stored))
    seen = set()
    for name, wanted in _dequantized(demo_model("smollm2"), heads=9, kv_heads=3):
        assert np.array_equal(stored[names[name]].numpy(), wanted), name
        seen.add(names[name])
    assert seen == set(stored)
    assert len(seen) == 2 + 9 * 30


@pytest.mark.e2e
@pytest.mark.prove
def test_smollm2_is_what_transformers_loads(smollm2: ModelSource) -> None:
    import transformers

    path = demo_model("smollm2")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    ours = dict(load_original(smollm2).named_parameters())
    for name, parameter in theirs.named_parameters():
        assert torch.equal(parameter, ours[name]), name


@pytest.mark.e2e
def test_smollm2_tokenizer_is_complete(smollm2: ModelSource, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    files = {file.name for file in export_tokenizer(smollm2, tmp_path / "tokenizer")}
    assert files == {"tokenizer.json", "chat_template.jinja", "special.json"}
    special = json.loads((tmp_path / "tokenizer" / "special.json").read_text())
    assert special["eos_token_ids"] == [2]
    assert special["add_bos"] is False
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer" / "tokenizer.json"))
    ids = tokenizer.encode("<|im_start|>user\nAdd 12 and 345.<|im_end|>").ids
    assert ids[0] == 1
    assert ids[-1] == 2
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<|im_start|>user\nAdd 12 and 345.<|im_end|>"
    assert [tokenizer.id_to_token(token) for token in tokenizer.encode("345").ids] == ["3", "4", "5"]
