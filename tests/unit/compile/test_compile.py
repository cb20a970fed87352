"""A whole compile of a tiny real architecture on the reference backend: cache, resume, determinism, refusals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from optcc.artifact import Artifact
from optcc.compile import CompileOptions, compile_model
from optcc.errors import BadOption, GroupSize, OptccError, PreconditionFailed, UnknownPass, UnknownScheme
from optcc.recipe import load_recipe
from tests import shared, zoo

SMALL = [
    "target.backend=reference",
    "target.threads=1",
    "check.tokens=64",
    "check.window=32",
    "check.limits.greedy=0",
]
LOOSE = [*SMALL, "check.limits.kl=1", "check.limits.top1=0.1", "check.limits.nll=1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("model") / "llama"
    zoo.save("llama", directory)
    return str(directory)


def files(root: Path) -> dict[str, bytes]:
    """Every file but the report, which holds timings."""
    return {
        str(p.relative_to(root)): p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.is_file() and "report" not in p.relative_to(root).parts
    }


def test_two_compiles_give_the_same_bytes_and_the_second_comes_from_the_cache(
    model: str, tmp_path: Path
) -> None:
    recipe = load_recipe("cpu-int8", SMALL)
    cached = CompileOptions(cache=tmp_path / "cache", speed=False)
    first = compile_model(model, recipe, tmp_path / "a", cached)
    second = compile_model(model, recipe, tmp_path / "b", cached)
    third = compile_model(model, recipe, tmp_path / "c", CompileOptions(cache=None, speed=False))
    assert files(tmp_path / "a") == files(tmp_path / "b") == files(tmp_path / "c")
    assert not any(row.cached for row in first.report.passes)
    assert all(row.cached for row in second.report.passes)
    assert [r.step for r in second.report.passes] == [r.step for r in third.report.passes]
    assert first.report.ledger == second.report.ledger


def test_a_changed_option_redoes_only_what_follows(model: str, tmp_path: Path) -> None:
    options = CompileOptions(cache=tmp_path / "cache", speed=False)
    compile_model(model, load_recipe("cpu-int8", SMALL), tmp_path / "a", options)
    changed = load_recipe("cpu-int8", [*SMALL, "serve.paged-kv.block-size=4"])
    rows = compile_model(model, changed, tmp_path / "b", options).report.passes
    assert all(row.cached for row in rows[:-1]) and not rows[-1].cached


def test_a_damaged_cache_entry_is_not_used(model: str, tmp_path: Path) -> None:
    options = CompileOptions(cache=tmp_path / "cache", speed=False)
    recipe = load_recipe("cpu-int8", SMALL)
    compile_model(model, recipe, tmp_path / "a", options)
    for tensor in (tmp_path / "cache" / "tensors").iterdir():
        data = bytearray(tensor.read_bytes())
        data[len(data) // 2] ^= 1
        tensor.write_bytes(data)
    compile_model(model, recipe, tmp_path / "b", options)
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.parametrize(
    "after", [pytest.param(0.3, marks=pytest.mark.prove), 0.6, pytest.param(0.9, marks=pytest.mark.prove)]
)
def test_a_killed_compile_leaves_nothing_and_goes_on_where_it_was(
    model: str, tmp_path: Path, after: float
) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    script = (
        "import sys; from pathlib import Path; from optcc.compile import *; from optcc.recipe import load_recipe\n"
        "class P:\n"
        "  def stage(self, n): print(n, flush=True)\n"
        "  def step(self, t, d, n): print(t, flush=True)\n"
        f"compile_model({model!r}, load_recipe('cpu-int8', {LOOSE!r}), Path({str(out)!r}),"
        f" CompileOptions(cache=Path({str(cache)!r}), speed=False), P())\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    seen: list[str] = []
    for line in child.stdout:
        seen.append(line.strip())
        if line.startswith("canonicalize." if after < 0.5 else "quantize.linear" if after < 0.8 else "check"):
            break
    time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not out.exists()
    finished = [s for s in seen if "." in s]
    recipe = load_recipe("cpu-int8", LOOSE)
    result = compile_model(model, recipe, out, CompileOptions(cache=cache, speed=False))
    cached = [row.step for row in result.report.passes if row.cached]
    assert len(cached) >= len(finished), "a finished pass was done again"
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []
    Artifact.open(out)


def test_a_failed_gate_writes_an_artifact_that_does_not_open(model: str, tmp_path: Path) -> None:
    recipe = load_recipe("cpu-int8", [*SMALL, "check.limits.kl=1e-9"])
    result = compile_model(model, recipe, tmp_path / "out", shared.quick())
    assert not result.ok
    with pytest.raises(OptccError) as caught:
        Artifact.open(tmp_path / "out")
    assert caught.value.code == "E604"
    assert Artifact.open(tmp_path / "out", force=True).status == "failed"


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        (["quantize.linear.scheme=int9"], UnknownScheme),
        (["quantize.linear.skip=[nothing.at.all]"], BadOption),
        (["serve.paged-kv.block-size=7"], BadOption),
    ],
)
def test_a_bad_recipe_leaves_nothing(
    model: str, tmp_path: Path, overrides: list[str], error: type[OptccError]
) -> None:
    with pytest.raises(error):
        compile_model(
            model,
            load_recipe("cpu-int8", [*LOOSE, *overrides]),
            tmp_path / "out",
            shared.quick(),
        )
    assert list(tmp_path.iterdir()) == []


def test_groups_that_do_not_divide_are_refused_before_weights_are_read(model: str, tmp_path: Path) -> None:
    scheme = tmp_path / "odd.yaml"
    scheme.write_text(
        "version: 1\ndescription: groups of 48\nweight: {type: int8, group: 48}\n"
        "activation: null\nembedding: true\n"
    )
    recipe = load_recipe("cpu-int8", [*LOOSE, f"quantize.linear.scheme={scheme}"])
    with pytest.raises(GroupSize, match="groups of 48"):
        compile_model(model, recipe, tmp_path / "out", shared.quick())


def test_a_decoder_needs_its_cache_attached(model: str, tmp_path: Path) -> None:
    path = tmp_path / "bare.yaml"
    path.write_text("version: 1\nextends: cpu-fp32\npasses: {serve: []}\n")
    with pytest.raises(PreconditionFailed, match=r"serve\.paged-kv"):
        compile_model(model, load_recipe(path, LOOSE), tmp_path / "out", shared.quick())


def test_an_unknown_pass_names_file_and_line(model: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("version: 1\nextends: cpu-fp32\npasses:\n  serve:\n    - serve.pagedkv\n")
    with pytest.raises(UnknownPass) as caught:
        compile_model(model, load_recipe(path, LOOSE), tmp_path / "out", CompileOptions(cache=None))
    assert "wrong.yaml:5" in str(caught.value) and "serve.paged-kv" in str(caught.value)
