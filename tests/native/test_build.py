"""The library's build: what is compiled, what it shows, and that a machine without a compiler still works."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from optcc.backends.onnxruntime import native, session
from optcc.backends.onnxruntime.native import build
from optcc.errors import NativeOperatorsMissing

SRC = Path(build.__file__).parent / "src"
LIBRARY = SRC.parent / build.LIBRARY
NEEDED = pytest.mark.skipif(not LIBRARY.is_file(), reason=f"no native operators: {native.status()}")
ISA_SUFFIXES = tuple(f"_{key}.o" for key in build.X86_SETS)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the library and its objects."""
    try:
        build.find_compiler()
    except build.BuildFailed as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("native")
    # Less inlining leaves more symbols to be found.
    record = build.build(SRC, folder / build.LIBRARY, folder, ["-O1"])
    assert not record.reason
    return folder


def _symbols(path: Path, *options: str) -> list[list[str]]:
    listed = subprocess.run(["nm", *options, str(path)], check=True, capture_output=True, text=True).stdout
    return [line.split() for line in listed.splitlines()]


@pytest.mark.prove
def test_files_of_one_instruction_set_share_nothing(built: Path) -> None:
    """The linker keeps one copy of a weak symbol: were it the AVX-512 one, an older processor would die in it."""
    objects = [path for path in built.glob("*.o") if path.name.endswith(ISA_SUFFIXES)]
    weak = {(path.name, line[-1]) for path in objects for line in _symbols(path) if line[-2] in "WwVvu"}
    assert not weak


@NEEDED
def test_library_shows_only_its_entry_points() -> None:
    names = {line[-1] for line in _symbols(LIBRARY, "-D", "--defined-only")}
    entries = {"optcc_isa", "optcc_isa_at", "optcc_choose_isa", "optcc_sample"}
    assert names == {"RegisterCustomOps", *entries}


@NEEDED
def test_library_has_no_path_of_this_machine() -> None:
    assert str(SRC.resolve().parents[3]).encode() not in LIBRARY.read_bytes()


def test_what_cant_be_built_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPTCC_NATIVE", raising=False)
    monkeypatch.setenv("CXX", "false")
    assert "exited with 1" in build.build(SRC, tmp_path / build.LIBRARY, tmp_path).reason
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "can't run no-such-compiler" in build.build(SRC, tmp_path / build.LIBRARY, tmp_path).reason
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no C++ compiler found" in build.build(SRC, tmp_path / build.LIBRARY, tmp_path).reason
    monkeypatch.setenv("OPTCC_NATIVE", "off")
    assert build.build(SRC, tmp_path / build.LIBRARY, tmp_path).reason == "switched off by OPTCC_NATIVE=off"


def test_failed_build_removes_the_old_library(tmp_path: Path) -> None:
    (tmp_path / build.LIBRARY).write_bytes(b"old")
    build.install_in_tree(tmp_path, tmp_path / "none", build.Record("no compiler", "", "0"))
    assert not (tmp_path / build.LIBRARY).exists()
    assert "no compiler" in (tmp_path / build.RECORD).read_text()


def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTCC_NATIVE", "off")
    assert native.library() is None
    assert str(native.status()) == "not used: switched off by OPTCC_NATIVE=off"


def test_graph_with_native_operators_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx
    from onnx import helper

    def model(*domains: str) -> bytes:
        made = helper.make_model(helper.make_graph([], "g", [], []), producer_name="optcc")
        del made.opset_import[:]
        made.opset_import.extend(helper.make_opsetid(d, 1) for d in domains)
        raw: bytes = onnx.ModelProto.SerializeToString(made, deterministic=True)
        return raw

    assert not session.needs_native(model("", "com.microsoft"))
    assert session.needs_native(model("", "com.microsoft", "optcc"))
    monkeypatch.setenv("OPTCC_NATIVE", "off")
    (tmp_path / session.MODEL).write_bytes(model("", "optcc"))
    with pytest.raises(NativeOperatorsMissing) as caught:
        session.open_session(tmp_path, 1)
    assert caught.value.code == "E504"
    assert "OPTCC_NATIVE=off" in str(caught.value)
    assert "install a C++ compiler" in str(caught.value.hint)
