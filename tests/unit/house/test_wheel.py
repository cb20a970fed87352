"""What is packed: one top-level name, every source file, and the same from an sdist as from the checkout."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

NATIVE = "optcc/backends/onnxruntime/native/"


def build(source: Path, into: Path, **variables: str) -> None:
    """Build wheel and sdist of `source` into a folder."""
    environment = os.environ | variables
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(into)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=400, env=environment)


@pytest.fixture(scope="module")
def packed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build(root, folder)
    return folder


def wheel_names(folder: Path) -> set[str]:
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    assert len(names) == len(set(names)), "a file was packed twice"
    return {name for name in names if ".dist-info/" not in name}


def package_files(root: Path) -> set[str]:
    """Every source and recipe of the checkout, by its place in the package."""
    suffixes = {".py", ".yaml", ".typed", ".md", ".jinja", ".json"}
    found = set()
    for folder, place in (("optcc", ""), ("passes", "optcc/"), ("backends", "optcc/"), ("recipes", "optcc/")):
        for path in (root / folder).rglob("*"):
            inside = path.relative_to(root)
            linked = len(inside.parts) > 2 and (root / Path(*inside.parts[:2])).is_symlink()
            if path.suffix in suffixes and path.is_file() and not linked:
                found.add(place + inside.as_posix())
    return found


def test_wheel_holds_every_file_under_one_name(root: Path, packed: Path) -> None:
    names = wheel_names(packed)
    assert {name.partition("/")[0] for name in names} == {"optcc"}
    assert package_files(root) - names == set()
    assert any(name.startswith("optcc/backends/") for name in names)
    assert any(name.startswith("optcc/recipes/") and name.endswith(".yaml") for name in names)
    assert not [name for name in names if "__pycache__" in name or "tests/" in name]


def test_sdist_builds_the_same_wheel(packed: Path, tmp_path: Path) -> None:
    (sdist,) = packed.glob("*.tar.gz")
    with tarfile.open(sdist) as file:
        assert not [entry.name for entry in file if entry.issym() or entry.islnk()]
        file.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    assert (source / "LICENSE").is_file()
    assert (source / "CHANGELOG.md").is_file()
    # Compiling once more would tell nothing new: the sources of the native operators are compared like all others.
    build(source, tmp_path / "again", OPTCC_NATIVE="off")
    compiled = {f"{NATIVE}{name}" for name in ("liboptcc_ort.so", "liboptcc_ort.dylib", "build.json")}
    assert wheel_names(tmp_path / "again") - compiled == wheel_names(packed) - compiled
