"""Finding models, and refusing what can't be used before any work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from optcc.errors import CorruptWeights, HubUnreachable, ModelNotFound, UnsupportedArchitecture
from optcc.frontend import capture, resolve
from tests import zoo


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A good model directory."""
    return zoo.save("llama", tmp_path / "tiny-llama")


def _set(directory: Path, **changes: object) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | changes))


def test_directory(llama: Path) -> None:
    source = resolve(str(llama))
    assert source.name == "tiny-llama"
    assert source.directory == llama
    assert {path.name for path in source.files} == {"config.json", "model.safetensors"}
    assert source.digest == resolve(str(llama)).digest
    _set(llama, rms_norm_eps=0.5)
    assert source.digest != resolve(str(llama)).digest


def test_missing_names_the_nearest(llama: Path) -> None:
    with pytest.raises(ModelNotFound) as caught:
        resolve(str(llama.parent / "tiny-lama"))
    assert "tiny-llama" in str(caught.value)
    (llama.parent / "model-q4.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelNotFound, match=r"model-q4\.gguf"):
        resolve(str(llama.parent / "model-q5.gguf"))


def test_directory_without_configuration_or_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"no config\.json"):
        resolve(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelNotFound, match="safe_serialization"):
        resolve(str(tmp_path))


@pytest.mark.parametrize("keep", [0, 4, 100, -1, -100])
def test_truncated_weights(llama: Path, keep: int) -> None:
    file = llama / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CorruptWeights, match=r"model\.safetensors"):
        resolve(str(llama))


@pytest.mark.parametrize("position", [0, 5, 40])
def test_damaged_header(llama: Path, position: int) -> None:
    file = llama / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[position] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(CorruptWeights, match=r"model\.safetensors"):
        resolve(str(llama))


def test_shards(llama: Path, tmp_path: Path) -> None:
    model, config = zoo.build("llama")
    sharded = tmp_path / "sharded"
    config.architectures = ["LlamaForCausalLM"]
    model.save_pretrained(sharded, max_shard_size="100KB")
    config.save_pretrained(sharded)
    shards = sorted(sharded.glob("*.safetensors"))
    assert len(shards) > 1
    assert len(capture(resolve(str(sharded))).weights) == len(capture(resolve(str(llama))).weights)
    shards[0].unlink()
    with pytest.raises(ModelNotFound, match=shards[0].name):
        resolve(str(sharded))


def test_broken_configuration(llama: Path) -> None:
    (llama / "config.json").write_text("{")
    with pytest.raises(CorruptWeights, match=r"config.json"):
        resolve(str(llama))


@pytest.mark.parametrize(
    ("changes", "feature"),
    [
        ({"num_local_experts": 8}, "mixture of experts"),
        ({"is_encoder_decoder": True}, "encoder-decoder"),
        ({"model_type": "mamba", "state_size": 16}, "state-space"),
        ({"layer_types": ["linear_attention", "full_attention"]}, "linear_attention"),
        ({"attention_chunk_size": 8192}, "chunked attention"),
        ({"alibi": True}, "ALiBi"),
        ({"model_type": "bloom"}, "ALiBi"),
        ({"model_type": "mpt", "attn_config": {"alibi": True}}, "ALiBi"),
        ({"kv_lora_rank": 512}, "multi-head latent attention"),
        ({"model_type": "gpt_oss", "num_local_experts": 32}, "mixture of experts"),
        ({"vision_config": {"hidden_size": 8}}, "multimodal"),
        ({"rope_scaling": {"type": "longrope"}}, "longrope"),
        ({"rope_parameters": {"full_attention": {"rope_type": "dynamic"}}}, "dynamic"),
        ({"text_config": {"num_experts": 4}}, "mixture of experts"),
    ],
)
def test_refused_from_the_configuration_alone(
    tmp_path: Path, changes: dict[str, object], feature: str
) -> None:
    """No weights exist here: the refusal comes first."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"} | changes))
    with pytest.raises(UnsupportedArchitecture, match=feature):
        resolve(str(tmp_path))


def test_unknown_model_type(llama: Path) -> None:
    _set(llama, model_type="llamma")
    with pytest.raises(UnsupportedArchitecture, match="llamma"):
        capture(resolve(str(llama)))
    _set(llama, auto_map={"AutoModel": "code.Model"})
    with pytest.raises(UnsupportedArchitecture, match="trust_remote_code"):
        capture(resolve(str(llama)))


def test_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnreachable, match="nobody/nothing"):
        resolve("nobody/nothing")
