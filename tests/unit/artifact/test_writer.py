"""The writer: whole or not at all, whatever happens in between."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from optcc.artifact import Artifact, ArtifactWriter, TensorSource, verify_artifact
from optcc.errors import CannotWrite, OutputInTheWay
from optcc.files import writing
from tests.rights import modes_count
from tests.unit.artifact.conftest import Make

ROOT = Path(__file__).resolve().parents[3]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nothing_shows_before_commit(tmp_path: Path, make_manifest: Make) -> None:
    with ArtifactWriter(tmp_path / "deep" / "er" / "a") as writer:
        writer.write("model.onnx", b"x")
        assert names(tmp_path / "deep" / "er") == [f".a.partial-{os.getpid()}"]
        writer.write_report("report.json", {"status": "unchecked"})
        writer.commit(make_manifest())
        with pytest.raises(RuntimeError, match="committed"):
            writer.path("y")
    assert names(tmp_path / "deep" / "er") == ["a"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def interrupted() -> None:
        with ArtifactWriter(tmp_path / "deep" / "a") as writer:
            writer.write("tokenizer/x.json", b"x")
            raise error

    with pytest.raises(error):
        interrupted()
    assert names(tmp_path) == []


def test_leaving_without_commit_leaves_nothing(tmp_path: Path) -> None:
    with ArtifactWriter(tmp_path / "a") as writer:
        writer.write("x", b"x")
    assert names(tmp_path) == []


def test_a_staged_artifact_opens_for_its_check(tmp_path: Path, make_manifest: Make) -> None:
    with ArtifactWriter(tmp_path / "a") as writer:
        writer.write("model.onnx", b"x")
        sealed = writer.seal(make_manifest())
        assert Artifact.open(writer.root, force=True, verify=False).path("model.onnx").read_bytes() == b"x"
        writer.write_report("report.json", {"status": "ok"})
        assert writer.commit(make_manifest()) == sealed
    assert verify_artifact(tmp_path / "a").ok


@pytest.mark.parametrize("report", [None, {}, {"status": "fine"}, b"not json"])
def test_no_artifact_without_a_status(tmp_path: Path, make_manifest: Make, report: object) -> None:
    def write() -> None:
        with ArtifactWriter(tmp_path / "a") as writer:
            writer.write("x", b"x")
            if report is not None:
                writer.write_report("report.json", report)
            writer.commit(make_manifest())

    with pytest.raises(ValueError, match="status"):
        write()
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["manifest.json", "report/x.json", "../x", "/x", "a/../../x", ""])
def test_names_that_are_not_the_callers(tmp_path: Path, name: str) -> None:
    with ArtifactWriter(tmp_path / "a") as writer, pytest.raises(ValueError, match="not a name"):
        writer.path(name)


def test_report_names(tmp_path: Path) -> None:
    with ArtifactWriter(tmp_path / "a") as writer:
        for name in ("hashes.json", "../x"):
            with pytest.raises(ValueError, match="not a name"):
                writer.write_report(name, {})


# --- what is already there ------------------------------------------------------------------------


def test_an_artifact_is_replaced(tmp_path: Path, make: Make) -> None:
    make(tmp_path / "a", seed=1, status="failed")
    new = make(tmp_path / "a", seed=2)
    assert Artifact.open(tmp_path / "a").manifest == new
    assert names(tmp_path) == ["a"]


def test_an_artifact_stays_when_the_new_one_fails(tmp_path: Path, make: Make) -> None:
    old = make(tmp_path / "a")

    def interrupted() -> None:
        with ArtifactWriter(tmp_path / "a") as writer:
            writer.write("x", b"x")
            raise ValueError

    with pytest.raises(ValueError):
        interrupted()
    assert Artifact.open(tmp_path / "a").manifest == old
    assert names(tmp_path) == ["a"]


def test_a_damaged_artifact_is_replaced(tmp_path: Path, make: Make) -> None:
    make(tmp_path / "a")
    (tmp_path / "a" / "model.onnx").write_bytes(b"")
    (tmp_path / "a" / "report" / "hashes.json").write_bytes(b"")
    make(tmp_path / "a")
    assert verify_artifact(tmp_path / "a").ok


def test_a_link_stays_a_link(tmp_path: Path, make: Make) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    make(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert verify_artifact(tmp_path / "disk").ok


@pytest.mark.parametrize("what", ["file", "folder", "foreign-manifest", "nested-empty", "artifact-and-notes"])
def test_anything_else_is_in_the_way(tmp_path: Path, make: Make, what: str) -> None:
    out = tmp_path / "a"
    if what == "file":
        out.write_text("mine")
    elif what == "artifact-and-notes":
        make(out)
        (out / "notes.txt").write_text("mine")
    else:
        out.mkdir()
        if what == "nested-empty":
            (out / "inner").mkdir()
        else:
            (out / ("manifest.json" if what == "foreign-manifest" else "x")).write_text('{"files": []}')
    before = [p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()]
    with pytest.raises(OutputInTheWay), ArtifactWriter(out):
        pytest.fail("entered")
    assert [p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()] == before
    assert names(tmp_path) == ["a"]


def test_what_comes_meanwhile_is_not_replaced(tmp_path: Path, make_manifest: Make) -> None:
    out = tmp_path / "a"

    def write() -> None:
        with ArtifactWriter(out) as writer:
            writer.write_report("report.json", {"status": "ok"})
            out.mkdir()
            (out / "mine.txt").write_text("x")
            writer.commit(make_manifest())

    with pytest.raises(OutputInTheWay):
        write()
    assert names(tmp_path) == ["a"]
    assert names(out) == ["mine.txt"]


def test_two_writers_of_one_place(tmp_path: Path) -> None:
    with ArtifactWriter(tmp_path / "a") as first:
        first.write("x", b"x")
        with pytest.raises(OutputInTheWay, match="another compile"), ArtifactWriter(tmp_path / "a"):
            pytest.fail("entered")
        assert first.path("x").read_bytes() == b"x"


# --- kills ----------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from optcc.artifact import ArtifactWriter
with ArtifactWriter(sys.argv[1]) as writer:
    writer.write("model.onnx", b"x" * 1000)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_a_killed_writer_leaves_no_artifact_and_the_next_one_cleans_up(tmp_path: Path, make: Make) -> None:
    done = python(KILLED, str(tmp_path / "a"))
    assert done.returncode == -signal.SIGKILL
    (left,) = names(tmp_path)
    assert left.startswith(".a.partial-")
    (tmp_path / ".ab.partial-1").mkdir()
    (tmp_path / ".a.partial-mine").mkdir()
    make(tmp_path / "a")
    assert names(tmp_path) == [".a.partial-mine", ".ab.partial-1", "a"]


def test_killed_between_the_two_renames_the_old_artifact_comes_back(tmp_path: Path, make: Make) -> None:
    old = make(tmp_path / "a")
    os.rename(tmp_path / "a", tmp_path / ".a.old-4194305")
    with ArtifactWriter(tmp_path / "a"):
        assert Artifact.open(tmp_path / "a").manifest == old
    assert names(tmp_path) == ["a"]


def test_killed_after_the_renames_the_old_artifact_is_removed(tmp_path: Path, make: Make) -> None:
    make(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / ".a.old-4194305")
    new = make(tmp_path / "a", seed=3)
    assert Artifact.open(tmp_path / "a").manifest == new
    assert names(tmp_path) == ["a"]


# --- disks ----------------------------------------------------------------------------------------

FULL = """
import resource, sys
import numpy as np
from optcc.artifact import ArtifactWriter, TensorSource
from optcc.errors import CannotWrite
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with ArtifactWriter(sys.argv[1]) as writer:
        if sys.argv[2] == "weights":
            one = lambda: bytes(40_000)
            writer.write_weights([TensorSource(name, "U8", (40_000,), one) for name in "abc"])
        elif sys.argv[2] == "small":
            writer.write("model.onnx", bytes(200_000))
        elif sys.argv[2] == "report":
            writer.write_report("page.html", bytes(200_000))
        else:
            with open(writer.path("model.onnx"), "wb") as file:
                file.write(bytes(200_000))
except CannotWrite as error:
    print(error)
"""


@pytest.mark.parametrize("how", ["weights", "small", "report", "foreign"])
def test_a_file_that_may_not_grow(tmp_path: Path, make: Make, how: str) -> None:
    old = make(tmp_path / "a")
    done = python(FULL, str(tmp_path / "a"), how)
    assert done.stdout.startswith("[E605]"), done.stderr
    assert "File too large" in done.stdout
    assert names(tmp_path) == ["a"]
    assert Artifact.open(tmp_path / "a").manifest == old


def test_a_full_disk() -> None:
    full = Path("/dev/full")
    with pytest.raises(CannotWrite, match="No space left"), writing(full):
        full.write_bytes(b"x")


def test_a_full_disk_met_by_another_library(tmp_path: Path) -> None:
    full = Path("/dev/full")
    with pytest.raises(CannotWrite, match="No space left"), ArtifactWriter(tmp_path / "deep" / "a"):
        full.write_bytes(b"x")
    assert names(tmp_path) == []


def test_an_error_of_reading_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), ArtifactWriter(tmp_path / "a") as writer:
        writer.write_weights([TensorSource("w", "U8", (1,), lambda: Path("/nowhere/x").read_bytes())])
    with pytest.raises(NotADirectoryError), ArtifactWriter(tmp_path / "a") as writer:
        writer.write_weights([TensorSource("w", "U8", (1,), lambda: Path("/dev/null/x").read_bytes())])
    assert names(tmp_path) == []


def test_too_little_space_is_known_before(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match="MB are free"), ArtifactWriter(tmp_path / "b" / "a", 1 << 60):
        pytest.fail("entered")
    assert names(tmp_path) == []


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CannotWrite, match="Not a directory"), ArtifactWriter(tmp_path / "file" / "a"):
        pytest.fail("entered")
    with pytest.raises(CannotWrite), ArtifactWriter(tmp_path / ("n" * 300)):
        pytest.fail("entered")
    assert names(tmp_path) == ["file"]


def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with (
            modes_count(),
            pytest.raises(CannotWrite, match="Permission denied"),
            ArtifactWriter(tmp_path / "a"),
        ):
            pytest.fail("entered")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="needs a file system that takes no files")
def test_a_read_only_file_system() -> None:
    with pytest.raises(CannotWrite), ArtifactWriter("/sys/optcc-artifact"):
        pytest.fail("entered")


def test_limits_of_this_process_are_untouched() -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
