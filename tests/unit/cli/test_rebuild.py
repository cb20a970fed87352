"""`optcc rebuild`: the same bytes, or exactly what differs, before and after."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from optcc.artifact.digest import sealed
from optcc.cli.main import main
from tests.unit.cli.conftest import Cli

RECIPE = """\
version: 1
name: learned
target: {backend: reference, threads: 1}
passes:
  canonicalize: [canonicalize.layout]
  quantize: [quantize.linear: {scheme: ./mine.yaml}, ./shift.py:Shift]
  serve: [serve.paged-kv]
check: {data: [prose], tokens: 128, window: 64, limits: {kl: 10, top1: 0}}
"""
SHIFT = """\
from dataclasses import dataclass
from optcc.pm import Context, Module, Pass

@dataclass(frozen=True)
class Shift(Pass):
    \"\"\"Note a number.\"\"\"

    def run(self, module: Module, ctx: Context) -> bool:
        module.attrs["shifted"] = 1
        return True
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, model: Path, root: Path) -> Path:
    """An artifact of a recipe with a scheme and a pass in files, beside them and its model."""
    folder = tmp_path_factory.mktemp("rebuild")
    shutil.copytree(model, folder / "talker")
    shutil.copy(root / "recipes" / "schemes" / "int8-g64.yaml", folder / "mine.yaml")
    (folder / "shift.py").write_text(SHIFT)
    (folder / "recipe.yaml").write_text(RECIPE)
    command = ["compile", str(folder / "talker"), str(folder / "recipe.yaml"), "-o", str(folder / "artifact")]
    assert main([*command, "--no-speed", "--no-cache"]) == 0
    return folder


@pytest.fixture
def spot(made: Path, tmp_path: Path) -> Path:
    """A copy of it all, free to be changed."""
    return Path(shutil.copytree(made, tmp_path / "spot"))


def test_the_same_bytes_from_another_place_and_under_another_name(cli: Cli, spot: Path) -> None:
    """The directory's name is in the manifest; the lock keeps it."""
    moved = (spot / "talker").rename(spot / "elsewhere")
    told = cli("rebuild", spot / "artifact", moved, "-o", spot / "again", "--base", spot, "--json")
    assert (told.code, told.data["same"], told.data["before"], told.data["after"]) == (0, True, [], [])
    names = [e.name for e in (spot / "artifact").iterdir() if e.is_file()]
    for name in names:
        assert (spot / "artifact" / name).read_bytes() == (spot / "again" / name).read_bytes()


def test_what_differs_is_said_before_anything_is_computed(cli: Cli, spot: Path) -> None:
    lock = spot / "artifact" / "report" / "lock.json"
    data = json.loads(lock.read_text())
    assert set(data["recipe"]["files"]) == {"mine.yaml", "shift.py"}
    data["packages"]["torch"] = "1.0"
    data["machine"]["cpu"] = "another"
    del data["digest"]
    lock.write_bytes(sealed(data))
    hashes = spot / "artifact" / "report" / "hashes.json"
    table = json.loads(hashes.read_text())
    import hashlib

    table["files"]["report/lock.json"] = {
        "bytes": lock.stat().st_size,
        "sha256": hashlib.sha256(lock.read_bytes()).hexdigest(),
    }
    del table["digest"]
    hashes.write_bytes(sealed(table))
    (spot / "shift.py").write_text(SHIFT + "\n")
    told = cli("rebuild", spot / "artifact", "--dry-run", "--base", spot, "--json")
    assert told.code == 1
    found = {d["field"]: (d["was"], d["now"]) for d in told.data["before"]}
    assert set(found) == {"packages.torch", "machine.cpu", "recipe.files.shift.py"}
    assert found["packages.torch"][0] == "1.0"
    assert "packages.torch was 1.0, is" in cli("rebuild", spot / "artifact", "--dry-run", "--base", spot).out


def test_another_model_is_refused_by_the_name_of_its_file(cli: Cli, spot: Path) -> None:
    file = spot / "talker" / "model.safetensors"
    data = np.fromfile(file, np.uint8)
    data[-1] ^= 1
    data.tofile(file)
    told = cli("rebuild", spot / "artifact", spot / "talker", "-o", spot / "again", "--base", spot, "--json")
    assert (told.code, told.error["code"]) == (2, "E603")
    assert "model.files.model.safetensors was" in told.error["what"]
    assert not (spot / "again").exists()


def test_other_bytes_are_named(cli: Cli, spot: Path) -> None:
    """An edited scheme: it is said before, and afterwards what has come of it."""
    scheme = (spot / "mine.yaml").read_text()
    assert "64" in scheme
    (spot / "mine.yaml").write_text(scheme.replace("64", "32"))
    told = cli("rebuild", spot / "artifact", "-o", spot / "again", "--base", spot)
    assert told.code == 1
    before, _, after = told.out.partition("differs from")
    assert "recipe.files.mine.yaml was" in before
    assert "files.weights.safetensors was" in after
    assert "files.model.ir was" in after


def test_an_artifact_without_a_lock(cli: Cli, spot: Path) -> None:
    (spot / "artifact" / "report" / "lock.json").unlink()
    hashes = spot / "artifact" / "report" / "hashes.json"
    table = json.loads(hashes.read_text())
    del table["digest"], table["files"]["report/lock.json"]
    hashes.write_bytes(sealed(table))
    told = cli("rebuild", spot / "artifact", "--dry-run", "--json")
    assert (told.code, told.error["code"]) == (2, "E603")
    assert "lock.json" in told.error["what"]


def test_neither_or_both_of_out_and_dry_run(cli: Cli, spot: Path) -> None:
    assert cli("rebuild", spot / "artifact").code == 2
    assert cli("rebuild", spot / "artifact", "-o", spot / "x", "--dry-run").code == 2
