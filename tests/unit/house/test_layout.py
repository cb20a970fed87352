"""The shape of the repository: links, guards, file lengths, golden files."""

import importlib
import inspect
import os
import sys
from pathlib import Path

import pytest

from optcc.pm.discover import load_pass
from tools.gen_docs import builtin_ids

LONGEST = 500
FOLDERS = ("passes", "backends", "recipes")


@pytest.mark.parametrize("name", FOLDERS)
def test_links_exist(root: Path, name: str) -> None:
    assert os.readlink(root / "optcc" / name) == f"../{name}"


@pytest.mark.parametrize("name", FOLDERS)
def test_short_name_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under two names, every pass and backend would be registered twice."""
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ImportError, match=f"import optcc.{name}, not {name}"):
        importlib.import_module(name)
    importlib.import_module(f"optcc.{name}")


def test_no_file_is_too_long(root: Path) -> None:
    folders = ("optcc", "passes", "backends", "tests", "tools", "examples", "benchmarks")
    lengths = {
        str(path.relative_to(root)): len(path.read_text(encoding="utf-8").splitlines())
        for folder in folders
        for path in (root / folder).rglob("*.py")
    }
    assert len(lengths) > 50
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST} == {}


@pytest.mark.parametrize("ref", builtin_ids())
def test_pass_has_golden_file_and_docstring(root: Path, ref: str) -> None:
    golden = root / "tests" / "golden" / f"{ref}.ir"
    assert golden.is_file(), f"write {golden.relative_to(root)}"
    text = inspect.getdoc(load_pass(ref)) or ""
    assert "Before:" in text, "the docstring says what holds before"
    assert "After:" in text, "the docstring says what holds after"


def test_every_golden_file_has_its_pass(root: Path) -> None:
    assert {path.stem for path in (root / "tests" / "golden").glob("*.ir")} <= set(builtin_ids())


def test_no_path_of_a_machine_is_committed(root: Path) -> None:
    """Files that hold an absolute home or build path work on one machine only."""
    banned = ["/" + "tmp/venv", "/" + "root/", "/" + "work/main"]
    folders = ("optcc", "passes", "backends", "recipes", "tools", "tests", "docs", "examples")
    files = [
        p
        for folder in folders
        for p in (root / folder).rglob("*")
        if p.suffix in {".py", ".md", ".yaml", ".ir"}
    ]
    assert [str(p) for p in files if any(word in p.read_text(encoding="utf-8") for word in banned)] == []
