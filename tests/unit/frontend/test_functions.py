"""Encoders and factories."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from optcc.errors import AttentionCount, BadFactory, CaptureFailed, UnsupportedArchitecture
from optcc.frontend import LoadOptions, capture, load_original, resolve

_FACTORY = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = torch.nn.Linear(8, 4)
        self.register_buffer("offset", torch.full((4,), 2.0))
    def forward(self, x, gain):
        return torch.relu(self.model(x)) * gain + self.offset + torch.tensor([1.0, 2.0, 3.0, 4.0])
net = Net()
def fixed():
    return net, (torch.ones(3, 8), torch.ones(4))
def dynamic():
    return net, {"x": torch.ones(3, 8), "gain": torch.ones(4)}, {"x": {0: "B"}}
def fresh():
    return Net(), (torch.ones(3, 8), torch.ones(4)), {"x": {0: "B"}}
def wrong():
    return net
def misnamed():
    return net, (torch.ones(3, 8), torch.ones(4)), {"y": {0: "B"}}
def single():
    return net, (torch.ones(1, 8), torch.ones(4)), {"x": {0: "B"}}
def impossible():
    return net, (torch.ones(3, 8), torch.ones(4)), {"x": {1: "K"}}
def broken():
    raise RuntimeError("no such weights")
"""


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with an unused head, saved the way sentence encoders are."""
    directory = tmp_path_factory.mktemp("bert")
    config = transformers.BertConfig(
        vocab_size=160,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
    )
    torch.manual_seed(1)
    model = transformers.BertModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(directory)
    return directory


@pytest.mark.parametrize(("pooling", "normalize"), [("mean", True), ("cls", False), ("none", False)])
def test_encoder_matches_transformers(bert: Path, evaluate, pooling, normalize) -> None:
    options = LoadOptions(pooling=pooling, normalize=normalize)
    source = resolve(str(bert), options)
    program = capture(source, options)
    assert program.kind == "function"
    assert program.spec is None
    assert program.dims == {"input_ids": ("B", "S"), "attention_mask": ("B", "S")}
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[0, 4:] = 0
    tokens = torch.randint(3, 160, (3, 9))
    got = evaluate(program, {"input_ids": tokens, "attention_mask": mask})
    with torch.no_grad():
        hidden = transformers.AutoModel.from_pretrained(bert, attn_implementation="eager")(
            tokens, mask
        ).last_hidden_state
        want = {
            "mean": (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True),
            "cls": hidden[:, 0],
            "none": hidden,
        }[pooling]
        want = torch.nn.functional.normalize(want, dim=-1) if normalize else want
        again = load_original(source, options=options)(tokens, mask)
    real = mask.bool() if pooling == "none" else slice(None)
    assert (got[real] - want[real]).abs().max() <= 1e-5
    assert (again[real] - want[real]).abs().max() <= 1e-5
    assert program.outputs == (("last_hidden_state",) if pooling == "none" else ("embeddings",))
    assert not any("pooler" in name for name in program.weights)
    one = {"input_ids": tokens[1:2, :1], "attention_mask": mask[1:2, :1]}
    assert torch.isfinite(evaluate(program, one)).all()


def test_encoder_with_its_own_attention_is_refused(tmp_path: Path) -> None:
    config = transformers.MPNetConfig(
        vocab_size=60, hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64
    )
    transformers.MPNetModel(config).save_pretrained(tmp_path)
    with pytest.raises(AttentionCount, match="modeling_mpnet"):
        capture(resolve(str(tmp_path)))


def _factory(tmp_path: Path, name: str) -> str:
    file = tmp_path / "things.py"
    file.write_text(_FACTORY)
    return f"{file}:{name}"


@pytest.mark.parametrize(("name", "dims"), [("fixed", (3, 8)), ("dynamic", ("B", 8)), ("fresh", ("B", 8))])
def test_factory(tmp_path: Path, evaluate, name, dims) -> None:
    source = resolve(_factory(tmp_path, name))
    program = capture(source)
    assert program.dims["x"] == dims
    assert program.outputs == ("output",)
    assert {"model.weight", "model.bias", "offset"} <= set(program.weights)
    rows = 3 if name == "fixed" else 1
    inputs = {"x": torch.randn(rows, 8), "gain": torch.randn(4)}
    with torch.no_grad():
        want = load_original(source)(**inputs)
    assert torch.equal(evaluate(program, inputs), want)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrong", "must return"),
        ("misnamed", "unknown inputs: y"),
        ("single", "size 1"),
        ("broken", "no such weights"),
        ("fixd", "no function"),
    ],
)
def test_bad_factory(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(BadFactory, match=message):
        capture(resolve(_factory(tmp_path, name)))


def test_factory_dimension_that_cannot_vary(tmp_path: Path) -> None:
    with pytest.raises(CaptureFailed, match="dimension declared as variable"):
        capture(resolve(_factory(tmp_path, "impossible")))


def test_factory_module_that_is_not_there() -> None:
    with pytest.raises(BadFactory, match="can't be imported"):
        resolve("no_such_package_of_mine:make")


def test_unknown_task_is_refused(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=64, num_hidden_layers=1, num_attention_heads=4
    )
    transformers.LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedArchitecture, match="LlamaForSequenceClassification"):
        capture(resolve(str(tmp_path)))


def test_operator_without_a_shape_rule(tmp_path: Path) -> None:
    (tmp_path / "opaque.py").write_text(
        "import torch\n"
        "library = torch.library.Library('optcc_test_opaque', 'DEF')\n"
        "library.define('twice(Tensor x) -> Tensor')\n"
        "library.impl('twice', lambda x: x * 2, 'CPU')\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return torch.ops.optcc_test_opaque.twice(x)\n"
        "def make():\n"
        "    return Net(), (torch.ones(3),)\n"
    )
    with pytest.raises(CaptureFailed, match="register_fake") as caught:
        capture(resolve(f"{tmp_path / 'opaque.py'}:make"))
    assert "optcc_test_opaque.twice" in caught.value.what
    assert "opaque.py:7 (forward)" in (caught.value.where or "")


def test_factory_dimension_has_the_limit_of_a_table(tmp_path: Path, evaluate) -> None:
    (tmp_path / "table.py").write_text(
        "import torch\n"
        "class Table(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.positions = torch.nn.Parameter(torch.randn(32, 4))\n"
        "    def forward(self, x):\n"
        "        return x + self.positions[: x.shape[1]]\n"
        "def make():\n"
        "    return Table(), {'x': torch.randn(2, 5, 4)}, {'x': {0: 'B', 1: 'S'}}\n"
    )
    reference = f"{tmp_path / 'table.py'}:make"
    program = capture(resolve(reference))
    assert program.limits == {"S": 32}
    x = torch.randn(3, 32, 4)
    torch.testing.assert_close(evaluate(program, {"x": x}), load_original(resolve(reference))(x))
