"""Bad input, through the real command line: one clear message with its code, exit 2, nothing left behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Cli

COMPILE_ERRORS = {
    "unknown pass": (["--set", "passes.fuse=[fuse.nothing]"], "E104"),
    "unknown option": (["--set", "serve.paged-kv.blocksize=16"], "E105"),
    "option of a wrong type": (["--set", "serve.paged-kv.block-size=many"], "E106"),
    "option out of range": (["--set", "serve.paged-kv.block-size=7"], "E106"),
    "override of nothing": (["--set", "check.token=5"], "E109"),
    "override without a value": (["--set", "check.tokens"], "E109"),
    "override of a wrong type": (["--set", "check.tokens=some"], "E109"),
    "unknown backend": (["--set", "target.backend=onnx"], "E501"),
    "unknown scheme": (["--set", "passes.quantize=[quantize.linear: {scheme: int3}]"], "E107"),
    "group that doesn't divide": (["--set", "passes.quantize=[quantize.linear: {scheme: SCHEME}]"], "E401"),
    "missing text": (["--set", "check.data=[./absent.txt]"], "E802"),
}


def refused(cli: Cli, code: str, out: Path | None, *args: object) -> None:
    """The command line fails with `code` in text and in JSON, and `out` is not there afterwards."""
    told = cli(*args)
    assert (told.code, told.out) == (2, ""), told
    assert f"error [{code}]: " in told.err
    assert "Traceback" not in told.err
    assert told.err.count("error [") == 1
    data = cli(*args, "--json")
    assert data.code == 2
    assert data.error["code"] == code
    assert data.err == ""
    if out is not None:
        assert not out.exists()
        assert not list(out.parent.glob(f".{out.name}*")) if out.parent.is_dir() else True


@pytest.mark.parametrize("case", COMPILE_ERRORS)
def test_compile_refuses(
    case: str, cli: Cli, compiled: Path, model: Path, recipe: Path, tmp_path: Path
) -> None:
    """The captured model is in the cache, so each of these takes a moment."""
    options, code = COMPILE_ERRORS[case]
    scheme = tmp_path / "g48.yaml"
    scheme.write_text(
        "version: 1\ndescription: groups that don't divide 64\n"
        "weight: {type: int8, group: 48}\n"
        "activation: null\nembedding: true\n"
    )
    options = [option.replace("SCHEME", str(scheme)) for option in options]
    out, cache = tmp_path / "out", compiled.parent / "cache"
    refused(cli, code, out, "compile", model, recipe, "-o", out, "--cache", cache, "--no-speed", *options)


def test_compile_refuses_what_is_no_recipe(cli: Cli, model: Path, tmp_path: Path) -> None:
    out, broken = tmp_path / "out", tmp_path / "r.yaml"
    refused(cli, "E101", out, "compile", model, "cpu-int9", "-o", out)
    for text, code in [
        ("version: 1\n  x: [\n", "E102"),
        ("version: 1\ncheck: {tokens: lots}\n", "E103"),
        ("version: 1\nchek: {}\n", "E103"),
        ("version: 1\nextends: ./r.yaml\n", "E108"),
        ("version: 1\npasses: {fuse: {}}\n", "E103"),
    ]:
        broken.write_text(text)
        refused(cli, code, out, "compile", model, broken, "-o", out)


def test_compile_refuses_bad_models(cli: Cli, model: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(cli, "E201", out, "compile", tmp_path / "absent", recipe, "-o", out)
    refused(cli, "E201", out, "compile", tmp_path / "absent.gguf", recipe, "-o", out)
    cut = Path(shutil.copytree(model, tmp_path / "cut"))
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(cli, "E202", out, "compile", cut, recipe, "-o", out)
    weights.write_bytes(b"\xff" * 64)
    refused(cli, "E202", out, "compile", cut, recipe, "-o", out)
    for junk in (b"GGUF\x03\x00\x00\x00" + b"\xff" * 40, b"not a gguf"):
        (tmp_path / "junk.gguf").write_bytes(junk)
        refused(cli, "E202", out, "compile", tmp_path / "junk.gguf", recipe, "-o", out)
    refused(cli, "E207", out, "compile", "no.such:factory", recipe, "-o", out)


def test_compile_refuses_bad_outputs(cli: Cli, model: Path, recipe: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    refused(cli, "E606", None, "compile", model, recipe, "-o", file)
    refused(cli, "E606", None, "compile", model, recipe, "-o", tmp_path)
    refused(cli, "E605", None, "compile", model, recipe, "-o", file / "below")
    refused(cli, "E605", None, "compile", model, recipe, "-o", "/proc/optcc/out")
    assert file.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [file]


RUN_ERRORS = {
    "prompt too long": (["x" * 200], "E702"),
    "answer too long": (["hi", "--max-tokens", "128"], "E702"),
    "pool too small": (["hi", "--max-tokens", "40", "--kv-tokens", "16"], "E701"),
    "empty prompt": (["", "--raw"], "E705"),
    "temperature": (["hi", "--temperature", "-1"], "E703"),
    "top-p": (["hi", "--top-p", "0"], "E703"),
    "top-k": (["hi", "--top-k", "-2"], "E703"),
    "seed": (["hi", "--seed", "-1"], "E703"),
    "max tokens": (["hi", "--max-tokens", "0"], "E703"),
    "empty stop text": (["hi", "--stop", ""], "E703"),
    "system without template": (["hi", "--raw", "--system", "be brief"], "E704"),
    "inputs of a decoder": (["--inputs", "x.npz", "-o", "y.npz"], "E704"),
}


@pytest.mark.parametrize("case", RUN_ERRORS)
def test_run_refuses(case: str, cli: Cli, compiled: Path) -> None:
    options, code = RUN_ERRORS[case]
    refused(cli, code, None, "run", compiled, *options)


def test_run_refuses_bad_artifacts(cli: Cli, artifact: Path, function: Path, tmp_path: Path) -> None:
    refused(cli, "E601", None, "run", tmp_path / "absent", "hi")
    refused(cli, "E601", None, "run", tmp_path, "hi")
    refused(cli, "E704", None, "run", function, "hi")
    assert "with arrays called x" in cli("run", function, "hi").err
    weights = artifact / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    for verb in (["run", artifact, "hi"], ["inspect", artifact], ["check", artifact, "anything"]):
        refused(cli, "E602", None, *verb)


def test_usage_errors(cli: Cli, compiled: Path, model: Path, recipe: Path, tmp_path: Path) -> None:
    for args in (
        ["compile", model, recipe],
        ["compile", model, recipe, "-o", tmp_path / "x", "--no-cache", "--cache", tmp_path],
        ["plan", "a", "b", "c"],
        ["run", compiled, "--inputs", "x.npz"],
        ["inspect", compiled, "--ir", "--weights"],
        ["bench", "online", compiled],
        ["passes", "shw", "x"],
    ):
        told = cli(*args)
        assert (told.code, told.out) == (2, ""), args
        assert "Traceback" not in told.err
        assert cli(*args, "--json").error["code"] == "usage"
