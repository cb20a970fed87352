"""Captured decoders compute what eager transformers computes, for every architecture of the zoo."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from optcc.errors import CaptureFailed, UnsupportedArchitecture
from optcc.frontend import CapturedProgram, LoadOptions, capture, load_original, resolve
from tests import zoo

Captured = Callable[[str], CapturedProgram]


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Captured:
    """Capture an architecture once for all tests of this module."""
    done: dict[str, CapturedProgram] = {}

    def get(name: str) -> CapturedProgram:
        if name not in done:
            done[name] = capture(resolve(str(zoo.save(name, tmp_path_factory.mktemp(name)))))
        return done[name]

    return get


@pytest.mark.parametrize("name", zoo.NAMES)
def test_matches_eager(name, captured, evaluate, ragged) -> None:
    program = captured(name)
    model, _ = zoo.build(name)
    # 24 tokens are longer than every window; then one token beside others, one token alone, and a single row.
    for lengths, rows in ([24, 1, 9], None), ([1], None), ([5, 3], [6]):
        texts = [zoo.text(length, seed) for seed, length in enumerate(lengths)]
        got = evaluate(program, ragged(texts, rows))
        with torch.no_grad():
            want = torch.cat([model(text[None]).logits[0] for text in texts])
        want = want if rows is None else want[rows]
        assert got.shape == want.shape
        assert (got - want).abs().max() <= zoo.BAR


@pytest.mark.parametrize("name", zoo.NAMES)
def test_describes_itself(name, captured) -> None:
    program = captured(name)
    spec, config = program.spec, zoo.config_of(name)
    assert spec is not None
    assert (spec.layers, spec.heads, spec.vocab) == (3, 4, zoo.VOCAB)
    assert spec.kv_heads == (getattr(config, "num_key_value_heads", None) or 4)
    assert spec.max_context == 128
    assert spec.eos_token_ids == (2,)
    assert spec.tied == bool(config.tie_word_embeddings)
    targets = Counter(node.target for node in program.exported.graph.nodes)
    assert targets[torch.ops.optcc.attention.default] == program.facts["attentions"] == 3
    assert program.inputs == ("input_ids", "position_ids", "query_starts", "logit_rows")
    assert program.dims["query_starts"] == ("R+1",)
    attention = next(
        n
        for n in program.exported.graph.nodes
        if n.target is torch.ops.aten.linear.default or "mm" in str(n.target)
    )
    assert (
        f"modeling_{name}" in attention.meta["stack_trace"]
        or "pytorch_utils" in attention.meta["stack_trace"]
    )


@pytest.mark.parametrize("name", zoo.NAMES)
def test_every_feature_matters(name) -> None:
    """The zoo keeps its promise: switching any feature off moves logits by at least a hundred times the
    bar."""
    model, _ = zoo.build(name)
    tokens = zoo.text()[None]
    with torch.no_grad():
        logits = model(tokens).logits
        assert logits.std() >= 1
        for switch in zoo.ZOO[name].switches:
            moved = (zoo.switched(name, switch)(tokens).logits - logits).abs().max()
            assert moved >= 100 * zoo.BAR, switch


def test_facts_count_the_model(captured) -> None:
    llama, gemma, gpt2 = (captured(name).facts for name in ("llama", "gemma3", "gpt2"))
    assert (llama["rms_norms"], llama["ropes"], llama["gated_mlps"]) == (7, 6, 3)
    assert (gemma["rms_norms"], gemma["gated_mlps"]) == (3 * 6 + 1, 3)
    assert (gpt2["layer_norms"], gpt2["ropes"], gpt2["gated_mlps"]) == (7, 0, 0)


def test_tied_weight_is_one(captured) -> None:
    program = captured("qwen2")
    names = [name for name in program.weights if "embed" in name or "lm_head" in name]
    assert names == ["model.embed_tokens.weight"]
    assert list(program.placeholders.values()).count(names[0]) >= 1


def test_original_is_eager_and_equal(tmp_path: Path) -> None:
    source = resolve(str(zoo.save("gemma2", tmp_path)))
    original, (model, _) = load_original(source), zoo.build("gemma2")
    tokens = zoo.text()[None]
    with torch.no_grad():
        assert torch.equal(original(tokens).logits, model(tokens).logits)


def test_bfloat16_weights_are_cast_on_use(tmp_path: Path, evaluate, ragged) -> None:
    source = resolve(str(zoo.save("mistral", tmp_path, torch.bfloat16)))
    program = capture(source)
    stored = {weight.dtype for weight in program.weights.values() if weight.path}
    assert stored == {torch.bfloat16}
    assert load_original(source).lm_head.weight.dtype == torch.bfloat16
    text = zoo.text()
    with torch.no_grad():
        want = load_original(source, torch.float32)(text[None]).logits[0]
    assert (evaluate(program, ragged([text])) - want).abs().max() <= zoo.BAR


def test_max_context_shortens(tmp_path: Path) -> None:
    spec = capture(resolve(str(zoo.save("llama", tmp_path))), LoadOptions(max_context=50)).spec
    assert spec is not None
    assert spec.max_context == 50


@pytest.mark.parametrize(
    ("drop", "message"), [("model.norm.weight", "missing"), (None, "not used by the configuration")]
)
def test_weights_and_configuration_must_agree(tmp_path: Path, drop: str | None, message: str) -> None:
    from safetensors.torch import load_file, save_file

    from optcc.errors import CorruptWeights

    file = zoo.save("llama", tmp_path) / "model.safetensors"
    tensors = load_file(file)
    if drop:
        del tensors[drop]
    else:
        tensors["model.layers.3.mlp.up_proj.weight"] = torch.zeros(2, 2)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CorruptWeights, match=message):
        capture(resolve(str(tmp_path)))


def test_base_model_prefix_may_be_absent(tmp_path: Path, evaluate, ragged) -> None:
    from safetensors.torch import load_file, save_file

    file = zoo.save("gpt2", tmp_path) / "model.safetensors"
    tensors = {name.removeprefix("transformer."): value for name, value in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    text = zoo.text(7)
    with torch.no_grad():
        want = zoo.build("gpt2")[0](text[None]).logits[0]
    assert (evaluate(capture(resolve(str(tmp_path))), ragged([text])) - want).abs().max() <= zoo.BAR


def test_mixtral_is_refused_by_name(tmp_path: Path) -> None:
    config = zoo.config_of("mixtral")
    config.architectures = ["MixtralForCausalLM"]
    config.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedArchitecture, match="mixture of experts"):
        resolve(str(tmp_path))


def test_capture_error_names_operator_line_and_cure(tmp_path: Path) -> None:
    (tmp_path / "branchy.py").write_text(
        "import torch\n"
        "class Branchy(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        if x.sum() > 0:\n"
        "            return x\n"
        "        return -x\n"
        "def make():\n"
        "    return Branchy(), (torch.ones(3),)\n"
    )
    with pytest.raises(CaptureFailed) as caught:
        capture(resolve(f"{tmp_path / 'branchy.py'}:make"))
    assert caught.value.where is not None
    assert "branchy.py:4 (forward)" in caught.value.where
    assert caught.value.hint is not None
    assert "branches on a tensor's value" in (caught.value.hint or "")
