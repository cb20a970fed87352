"""A tiny model that reads and writes text, and artifacts of it, made once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from optcc.cli.main import main
from tests import zoo

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
RECIPE = """\
version: 1
name: tiny
description: one pass, on the interpreter
target: {backend: reference, threads: 1}
passes:
  serve: [serve.paged-kv]
check: {data: [prose, code], tokens: 256, window: 64, limits: {kl: 1.0e-5}}
"""


def save_tokenizer(directory: Path) -> None:
    """Bytes as tokens; <s> and </s> are special."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    special = ["<pad>", "<s>", "</s>"]
    vocabulary = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    model = models.BPE(vocab={token: i for i, token in enumerate(vocabulary)}, merges=[])
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"eos_token": "</s>", "bos_token": "<s>", "chat_template": TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


@dataclass(frozen=True)
class Result:
    """Exit code and output of one command line."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """Standard output as the one JSON document it must be."""
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """The error that `--json` printed."""
        return self.data["error"]


Cli = Callable[..., Result]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run a command line in this process."""

    def run(*args: object) -> Result:
        capfd.readouterr()
        code = main([str(arg) for arg in args])
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return run


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the model, the recipe and the artifacts of this session lie."""
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="session")
def model(place: Path) -> Path:
    """The model's directory."""
    directory = zoo.save("llama", place / "talker", vocab_size=320)
    save_tokenizer(directory)
    return directory


@pytest.fixture(scope="session")
def recipe(place: Path) -> Path:
    """A recipe of one pass."""
    path = place / "tiny.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session")
def compiled(place: Path, model: Path, recipe: Path) -> Path:
    """An artifact of the model; tests that change it work on `artifact`."""
    out = place / "artifact"
    command = [
        "compile",
        str(model),
        str(recipe),
        "-o",
        str(out),
        "--cache",
        str(place / "cache"),
        "--no-speed",
    ]
    assert main(command) == 0
    return out


@pytest.fixture
def artifact(compiled: Path, tmp_path: Path) -> Path:
    """A copy of the artifact."""
    return Path(shutil.copytree(compiled, tmp_path / "artifact"))


FACTORY = """\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(32, 16), nn.Linear(16, 4)

    def forward(self, x):
        return self.outer(torch.relu(self.inner(x)))

def make():
    return Net(), {"x": torch.randn(3, 32)}, {"x": {0: "B"}}
"""


@pytest.fixture(scope="session")
def function(place: Path) -> Path:
    """An artifact that is a function of x f32[B, 32], not of text."""
    (place / "net.py").write_text(FACTORY)
    (place / "net.yaml").write_text(
        "version: 1\ntarget: {backend: reference}\ncheck: {limits: {cosine: 0.999}}\n"
    )
    out = place / "function"
    assert (
        main(["compile", f"{place / 'net.py'}:make", str(place / "net.yaml"), "-o", str(out), "--no-cache"])
        == 0
    )
    return out
