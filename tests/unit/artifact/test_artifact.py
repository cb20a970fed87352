"""Opening and verifying: an intact artifact opens, and no byte of one can change unseen."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optcc.artifact import Artifact, Manifest, canonical_json, open_and_start, verify_artifact
from optcc.artifact.digest import sealed, unseal
from optcc.artifact.manifest import parse_manifest
from optcc.errors import (
    CorruptArtifact,
    FailedArtifact,
    IncompatibleArtifact,
    NotAnArtifact,
)
from optcc.files import list_files
from tests.unit.artifact.conftest import Make, make_artifact

FILES = [
    "manifest.json",
    "model.ir",
    "model.onnx",
    "report/hashes.json",
    "report/page.html",
    "report/report.json",
    "tokenizer/chat_template.jinja",
    "tokenizer/special.json",
    "tokenizer/tokenizer.json",
    "weights.safetensors",
]


def test_what_is_written_opens(tmp_path: Path, make: Make) -> None:
    written = make(tmp_path / "a")
    assert list_files(tmp_path / "a") == FILES
    artifact = Artifact.open(tmp_path / "a")
    assert artifact.manifest == written
    assert artifact.manifest.digest == written.digest
    assert (artifact.kind, artifact.status) == ("decoder", "ok")
    assert artifact.spec["eos_token_ids"] == [0, 2]
    assert artifact.report()["kl"] == 0.001
    assert artifact.path("model.onnx").read_bytes() == b"graph" * 10
    assert artifact.has("tokenizer/tokenizer.json")
    assert not artifact.has("report/report.json")
    assert artifact.weights().view("w").shape == (4, 8)
    assert artifact.bytes == sum((tmp_path / "a" / name).stat().st_size for name in artifact.manifest.files)
    with pytest.raises(CorruptArtifact, match=r"no file draft\.onnx"):
        artifact.path("draft.onnx")
    report = verify_artifact(tmp_path / "a")
    assert report.ok
    assert report.files == len(FILES) - 2
    assert report.digest == written.digest


def test_two_writes_give_the_same_bytes(tmp_path: Path, make: Make) -> None:
    make(tmp_path / "a")
    make(tmp_path / "b")
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_the_report_is_outside_the_digest(tmp_path: Path, make: Make) -> None:
    assert make(tmp_path / "a", status="ok").digest == make(tmp_path / "b", status="failed").digest


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("intact") / "a"
    make_artifact(root)
    return root


def assert_damage_is_found(root: Path, name: str) -> None:
    report = verify_artifact(root)
    assert not report.ok
    assert name in [p.path for p in report.problems]
    with pytest.raises(CorruptArtifact):
        report.raise_if_damaged()
    for force in (False, True):
        with pytest.raises(CorruptArtifact, match=name):
            Artifact.open(root, force=force)
    started: list[Path] = []

    def start(artifact: Artifact) -> Path:
        started.append(artifact.root)
        return artifact.root

    with pytest.raises(CorruptArtifact, match=name):
        open_and_start(root, start, started.remove)
    assert not started, "what ran it was not dropped"


def test_starting_while_weights_are_hashed(intact: Path, tmp_path: Path) -> None:
    def refuse(artifact: Artifact) -> None:
        raise IncompatibleArtifact("no")

    artifact, made = open_and_start(intact, lambda artifact: artifact.spec["layers"], lambda made: None)
    assert (artifact.root, made) == (intact, artifact.spec["layers"])
    with pytest.raises(IncompatibleArtifact):
        open_and_start(intact, refuse, lambda made: None)
    shutil.copytree(intact, tmp_path / "a")
    with open(tmp_path / "a/weights.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"?")
    with pytest.raises(CorruptArtifact, match=r"weights\.safetensors"):
        open_and_start(tmp_path / "a", refuse, lambda made: None)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda data: data[:70] + bytes([data[70] ^ 1]) + data[71:], "from byte 64 on"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "from byte"),
        (lambda data: data[:-1], "bytes instead of"),
        (lambda data: data + b"?", "bytes instead of"),
        (lambda data: b"", "bytes instead of"),
    ],
)
def test_large_weights_are_hashed_in_pieces(
    damage: Callable[[bytes], bytes], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("digest", "writer", "starting"):
        monkeypatch.setattr(f"optcc.artifact.{name}.PIECE", 64)
    root = tmp_path / "a"
    make_artifact(root)
    weights = root / "weights.safetensors"
    data = weights.read_bytes()
    artifact, _ = open_and_start(root, lambda artifact: artifact.root, lambda made: None)
    entry = artifact.manifest.files["weights.safetensors"]
    assert len(entry.pieces) == -(-len(data) // 64) > 2
    assert entry.pieces[1] == hashlib.sha256(data[64:128]).hexdigest()
    weights.write_bytes(damage(data))
    with pytest.raises(CorruptArtifact, match=told):
        open_and_start(root, lambda artifact: artifact.root, lambda made: None)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_flipped_byte_is_found(intact: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(FILES))
    path = intact / name
    before = path.read_bytes()
    where = data.draw(st.integers(0, len(before) - 1))
    flip = data.draw(st.integers(1, 255))
    try:
        path.write_bytes(before[:where] + bytes([before[where] ^ flip]) + before[where + 1 :])
        assert_damage_is_found(intact, name)
    finally:
        path.write_bytes(before)


def test_every_bit_of_the_manifest_counts(intact: Path) -> None:
    data = (intact / "manifest.json").read_bytes()
    for where in range(len(data)):
        for bit in (1, 32):
            with pytest.raises(CorruptArtifact):
                parse_manifest(data[:where] + bytes([data[where] ^ bit]) + data[where + 1 :], "m")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["cut", "longer", "gone", "empty"])
def test_damaged_files(intact: Path, tmp_path: Path, name: str, how: str) -> None:
    root = tmp_path / "a"
    shutil.copytree(intact, root)
    path = root / name
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": data[:-1], "longer": data + b"\n", "empty": b""}[how])
    if (name, how) == ("manifest.json", "gone"):
        with pytest.raises(NotAnArtifact, match=r"no manifest\.json"):
            verify_artifact(root)
        with pytest.raises(NotAnArtifact):
            Artifact.open(root)
        return
    assert_damage_is_found(root, name)
    kinds = {p.path: p.kind for p in verify_artifact(root).problems}
    assert kinds == {name: "missing" if how == "gone" else "changed"}


def test_extra_files_are_listed_and_harm_nothing(tmp_path: Path, make: Make) -> None:
    make(tmp_path / "a")
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "a" / "report" / "old.json").write_text("x")
    report = verify_artifact(tmp_path / "a")
    assert [(p.path, p.kind) for p in report.problems] == [
        ("notes.txt", "extra"),
        ("report/old.json", "extra"),
    ]
    assert not report.ok
    assert json.loads(canonical_json(report.to_json()))["ok"] is False
    Artifact.open(tmp_path / "a")


def test_the_report_of_another_artifact_is_found(tmp_path: Path, make: Make) -> None:
    make(tmp_path / "good", status="ok")
    make(tmp_path / "bad", status="failed", pipeline="")
    shutil.rmtree(tmp_path / "bad" / "report")
    shutil.copytree(tmp_path / "good" / "report", tmp_path / "bad" / "report")
    with pytest.raises(CorruptArtifact, match="belongs to another artifact"):
        Artifact.open(tmp_path / "bad")


def test_failed_is_refused_without_force(tmp_path: Path, make: Make) -> None:
    make(tmp_path / "a", status="failed")
    with pytest.raises(FailedArtifact):
        Artifact.open(tmp_path / "a")
    assert Artifact.open(tmp_path / "a", force=True).status == "failed"
    make(tmp_path / "b", status="unchecked")
    assert Artifact.open(tmp_path / "b").status == "unchecked"


@pytest.mark.parametrize("name", ["nothing", "file", "empty"])
def test_not_an_artifact(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for use in (Artifact.open, verify_artifact):
        with pytest.raises(NotAnArtifact):
            use(tmp_path / name)


def test_another_format_version(tmp_path: Path, make: Make) -> None:
    written = make(tmp_path / "a")
    path = tmp_path / "a" / "manifest.json"
    path.write_bytes(sealed({**written.body(), "version": 2, "optcc_version": "9.1"}))
    with pytest.raises(IncompatibleArtifact, match="format 2") as caught:
        Artifact.open(tmp_path / "a")
    assert "9.1" in (caught.value.hint or "")


def test_packages_that_are_too_old(tmp_path: Path, make: Make) -> None:
    make(tmp_path / "a", min_versions={"numpy": "999.1", "no-such-package-here": "1"})
    with pytest.raises(IncompatibleArtifact, match=r"min_versions\.numpy: the artifact needs 999\.1"):
        Artifact.open(tmp_path / "a")
    Artifact.open(tmp_path / "a", force=True)
    make(tmp_path / "b", min_versions={"numpy": "1.26rc1", "no-such-package-here": "1"})
    Artifact.open(tmp_path / "b")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a//b", "./a", "a\\b", ""])
def test_names_that_lead_out_are_refused(make_manifest: Make, name: str) -> None:
    body = {**make_manifest().body(), "files": {name: {"bytes": 1, "sha256": "0"}}}
    with pytest.raises(CorruptArtifact, match="unsafe"):
        parse_manifest(sealed(body), "m")


@pytest.mark.parametrize("field", list(Manifest.__dataclass_fields__))
def test_a_missing_field_is_damage(make_manifest: Make, field: str) -> None:
    body = make_manifest().body()
    del body[field]
    with pytest.raises((CorruptArtifact, IncompatibleArtifact)):
        parse_manifest(sealed(body), "m")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(
        st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(spec=st.dictionaries(st.sampled_from("abc"), JSON))
def test_a_manifest_reads_back(spec: dict[str, object]) -> None:
    from tests.unit.artifact.conftest import manifest

    made = manifest(spec=spec)
    again = parse_manifest(made.to_bytes(), "m")
    assert again == made
    assert again.to_bytes() == made.to_bytes()


def test_sealing_covers_spelling() -> None:
    data = sealed({"b": 1, "a": [1.5, "é"]})
    assert unseal(data, "x", CorruptArtifact) == {"b": 1, "a": [1.5, "é"]}
    body = json.loads(data)
    for other in (
        json.dumps(body).encode(),
        data + b" ",
        data.replace(b"\n", b"\r\n"),
        b"[]",
        b"",
        b"[" * 99999,
    ):
        with pytest.raises(CorruptArtifact):
            unseal(other, "x", CorruptArtifact)
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"x": float("nan")})
