"""Exported programs: captured from their file, run eagerly as the original, and refused when loading could run code."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optcc.errors import CorruptWeights, ModelNotFound, UnsafeProgram
from optcc.frontend import capture, known_inputs, load_original, resolve
from optcc.frontend.lift import to_module
from optcc.frontend.sizes import is_size
from optcc.ir.interpret import interpret
from optcc.ir.parse import parse_module
from optcc.ir.text import module_text


class Net(nn.Module):
    """Two inputs, one called like a builtin; two named results; sizes that vary."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 6, 3, padding=1)
        self.norm = nn.BatchNorm1d(6)
        self.register_buffer("table", torch.arange(12.0).reshape(2, 6).t())  # not contiguous

    def forward(self, input: Tensor, shift: Tensor) -> dict[str, Tensor]:
        """See the class."""
        y = torch.relu_(self.norm(self.conv(input)))
        return {"features": y, "logits": y.mean(-1) @ self.table + shift}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program in a file."""
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("program") / "net.pt2"
    example = (torch.randn(3, 4, 8), torch.randn(2))
    batch, width = torch.export.Dim("batch", max=64), torch.export.Dim("width")
    sizes = {"input": {0: batch, 2: width}, "shift": None}
    torch.export.save(torch.export.export(Net().eval(), example, dynamic_shapes=sizes, strict=False), place)
    return place


def test_the_module_computes_what_the_program_does(path: Path) -> None:
    source = resolve(str(path))
    module = to_module(capture(source))
    assert [n.name for n in module.inputs()] == ["input", "shift"]
    assert module.output_names() == ("features", "logits")
    assert "%input : f32[B, 4, D2] = input" in module_text(module)
    assert module.attrs["limits"] == {"B": 64}
    original = load_original(source)
    for size in (1, 5):
        inputs = {"input": torch.randn(size, 4, 2 * size + 1), "shift": torch.randn(2)}
        wanted = original(**inputs)
        for found in (interpret(module, inputs), interpret(module.clone(), inputs)):
            torch.testing.assert_close(tuple(found.values()), wanted, rtol=0, atol=1e-5)


def test_weights_are_mapped_from_the_file(path: Path) -> None:
    module = to_module(capture(resolve(str(path))))
    places = {name: module.weights.refs[name].path for name in module.weights}
    assert {name for name, place in places.items() if place == path} == set(places) - {"table"}
    assert parse_module(module_text(module), module.weights).inputs()[0].name == "input"


def test_the_example_comes_from_the_file(path: Path) -> None:
    known = known_inputs(resolve(str(path)))
    assert known is not None
    assert {name: tuple(value.shape) for name, value in known.example.items()} == {
        "input": (3, 4, 8),
        "shift": (2,),
    }


def rewritten(path: Path, place: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A copy of an archive with other content."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(place, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return place


def in_model(change: Callable[[Any], None]) -> Callable[[dict[str, bytes]], None]:
    """A change of the program's JSON."""

    def apply(files: dict[str, bytes]) -> None:
        model = json.loads(files["net/models/model.json"])
        change(model)
        files["net/models/model.json"] = json.dumps(model).encode()

    return apply


def first_node(model: Any) -> Any:
    """The first operator of the program."""
    return model["graph_module"]["graph"]["nodes"][0]


def first_size(model: Any) -> Any:
    """The expression of the first size that varies."""
    values = model["graph_module"]["graph"]["tensor_values"].values()
    return next(s["as_expr"] for v in values for s in v["sizes"] if "as_expr" in s)


def use_pickle(files: dict[str, bytes]) -> None:
    """Weights as a pickle."""
    name = "net/data/weights/model_weights_config.json"
    files[name] = files[name].replace(b'"use_pickle": false', b'"use_pickle": true')


class Payload:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this must never be printed",)


EVIL = {
    "a pickled weight": use_pickle,
    "pickled inputs": lambda f: f.update({"net/data/sample_inputs/model.pt": pickle.dumps(Payload())}),
    "an old weight file": lambda f: f.update({"net/data/weights/model.pt": b""}),
    "an object": lambda f: f.update({"net/data/constants/custom_obj_0": b""}),
    "a library": lambda f: f.update({"net/data/aotinductor/model/a.so": b""}),
    "a size": in_model(lambda m: first_size(m).update(expr_str="__import__('os').system('true')")),
    "a node's name": in_model(lambda m: first_node(m).update(name="x = print(1)\n    y")),
    "an operator": in_model(lambda m: first_node(m).update(target="torch.hub.load")),
    "an argument": in_model(
        lambda m: m["graph_module"]["module_call_graph"][0]["signature"].update(
            forward_arg_names=["a=print()"]
        )
    ),
    "a weight's name": in_model(
        lambda m: m["graph_module"]["signature"]["input_specs"][0]["parameter"].update(parameter_name='a"+x')
    ),
}


@pytest.mark.parametrize("what", EVIL)
def test_what_could_run_is_refused(
    what: str, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UnsafeProgram):
        resolve(str(rewritten(path, tmp_path / "net.pt2", EVIL[what])))
    assert "never be printed" not in capsys.readouterr().out


def test_damaged_and_foreign_files(path: Path, tmp_path: Path) -> None:
    whole = path.read_bytes()
    for name, data in {"cut.pt2": whole[: len(whole) // 2], "text.pt2": b"hello", "empty.pt2": b""}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CorruptWeights, match="not a whole"):
            resolve(str(tmp_path / name))
    with pytest.raises(CorruptWeights, match=r"torch 2\.9 or later"):
        resolve(str(rewritten(path, tmp_path / "old.pt2", lambda f: f.pop("net/models/model.json"))))
    newer = in_model(lambda m: m["schema_version"].update(major=99))
    with pytest.raises(CorruptWeights, match="can't load the program"):
        capture(resolve(str(rewritten(path, tmp_path / "new.pt2", newer))))
    with pytest.raises(ModelNotFound, match=r"missing\.pt2"):
        resolve(str(tmp_path / "missing.pt2"))


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("Symbol('s31', positive=True, integer=True)", True),
        ("Add(Mul(Integer(2), Symbol('s0')), Integer(-1))", True),
        ("Pow(Symbol('s0'), Integer(2))", True),
        ("FloorDiv(s0 + 1, 2)", True),
        ("Pow(Integer(9), Pow(Integer(9), Integer(99999)))", False),
        ("Symbol('os.system')", False),
        ("s0.__class__", False),
        ("(lambda: 1)()", False),
        ("eval('1')", False),
        ("[x for x in s0]", False),
        ("Symbol('s0', __class__=print)", False),
        ("1 +", False),
        ("(" * 5000, False),
    ],
)
def test_expressions_of_sizes(text: str, good: bool) -> None:
    assert is_size(text) is good
