from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from optcc.backends.onnxruntime import OnnxRuntime, session
from optcc.errors import BackendCompileFailed, BackendUnavailable, IncompatibleArtifact
from tests.conformance.cases import A, X, call
from tests.conformance.harness import Case, build, module_of


def _hide(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    real = session.find_spec
    monkeypatch.setattr(session, "find_spec", lambda name: None if name in names else real(name))


def test_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _hide(monkeypatch, "onnxruntime")
    found = OnnxRuntime().probe()
    assert not found.ok
    assert "pip install" in found.install
    with pytest.raises(BackendUnavailable) as caught:
        session.open_session(tmp_path, 1)
    assert caught.value.code == "E501"
    assert "pip install" in str(caught.value.hint)


def test_running_needs_less_than_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    _hide(monkeypatch, "onnx_ir")
    assert not OnnxRuntime().probe().ok
    assert session.availability(compiling=False).ok


@pytest.mark.parametrize(
    ("version", "ok"), [("1.27.9", False), ("1.28", True), ("1.31.0rc1", True), ("2.0", True)]
)
def test_oldest_version(version: str, ok: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: version)
    found = session.availability()
    assert found.ok is ok
    assert found.version == version
    assert ok or ("older than" in found.reason and "pip install" in found.install)


def test_graph_that_cant_be_opened_quotes_the_vendor(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(IncompatibleArtifact) as caught:
        session.open_session(tmp_path, 1)
    assert caught.value.code == "E603"
    assert "Protobuf" in str(caught.value) or "INVALID" in str(caught.value)


def test_graph_that_is_refused_fails_the_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from optcc.backends.onnxruntime.lower import graph

    def unknown_operator(module: Any, spans: Any) -> bytes:
        return real(module, spans).replace(b"Tanh", b"Tanx")

    real = graph.lower
    monkeypatch.setattr(graph, "lower", unknown_operator)
    with pytest.raises(BackendCompileFailed) as caught:
        build(module_of(Case("tanh", X, call(A.tanh.default))), "onnxruntime", tmp_path)
    assert caught.value.code == "E503"
    assert "Tanx" in str(caught.value)
