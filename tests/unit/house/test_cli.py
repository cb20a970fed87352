"""The frame of the command line: start-up, verbs, and what becomes of errors."""

import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from optcc.artifact import ArtifactWriter, Manifest, ModelRef
from optcc.cli import explain
from optcc.cli import main as frame
from optcc.cli.common import common_options
from optcc.errors import GateFailed, UnknownPass
from optcc.host import cgroup_limit, read_cpu

HEAVY = {"torch", "numpy", "transformers", "rich", "ruamel", "jinja2", "onnxruntime", "psutil", "asyncio"}


def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "optcc", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, **env})


def run_and_list(*args: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """Run a command line; the result, and the modules that were imported by then."""
    program = (
        "import sys; from optcc.cli.main import main; code = main(sys.argv[1:]);"
        "print(*sys.modules, sep='\\n', file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-c", program, *args]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return result, set(result.stderr.split())


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make `optcc explain` raise."""

    @click.command("explain")
    @common_options
    def command(as_json: bool) -> None:
        raise error

    monkeypatch.setattr(explain, "command", command)


def test_help_imports_nothing_heavy() -> None:
    result, loaded = run_and_list("--help")
    assert result.returncode == 0
    assert "optcc.cli.main" in loaded
    assert {name.partition(".")[0] for name in loaded} & HEAVY == set()
    assert {name for name in loaded if name.startswith("optcc.")} == {
        "optcc.cli", "optcc.cli.common", "optcc.cli.lazy", "optcc.cli.main", "optcc.error",
        "optcc.errors", "optcc.numbers", "optcc.recipe_errors",
    }  # fmt: skip


def test_help_is_quick() -> None:
    """0.3 s on an idle machine; five times that while other tests run beside it."""
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        assert run("--help").returncode == 0
        best = min(best, time.perf_counter() - start)
    assert best < 1.5


def test_help_lists_every_verb() -> None:
    listed = run("--help").stdout
    assert all(f"  {verb} " in listed for verb in frame.VERBS)


@pytest.mark.parametrize("verb", frame.VERBS)
def test_every_verb_loads_and_takes_json(verb: str) -> None:
    """The table's verbs exist; a group of verbs (`passes list`) takes --json at each of them."""
    command = importlib.import_module(f"optcc.cli.{verb}").command
    leaves = command.commands.values() if isinstance(command, click.Group) else [command]
    for leaf in leaves:
        assert "--json" in {name for option in leaf.params for name in option.opts}, leaf.name
        assert leaf.help


def test_unknown_verb_names_the_nearest() -> None:
    result = run("complie")
    assert (result.returncode, result.stdout) == (2, "")
    assert "did you mean compile?" in result.stderr


def test_expected_error_in_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    raising(monkeypatch, UnknownPass("there is no pass `x`", where="r.yaml:3", hint="did you mean y?"))
    assert frame.main(["explain"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "error [E104]: there is no pass `x`",
        "     at: r.yaml:3",
        "   hint: did you mean y?",
        "   more: optcc explain E104",
    ]


def test_expected_error_in_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    raising(monkeypatch, GateFailed("kl is 0.5"))
    assert frame.main(["explain", "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == {"error": {"code": "E801", "what": "kl is 0.5", "where": None, "hint": None}}
    assert err == ""


def test_unexpected_error_leaves_its_trace_in_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    raising(monkeypatch, ZeroDivisionError("oops"))
    assert frame.main(["explain"]) == 3
    out, err = capsys.readouterr()
    (trace,) = tmp_path.iterdir()
    assert "Traceback" in trace.read_text()
    assert "Traceback" not in err
    assert str(trace) in err
    assert out == ""
    assert frame.main(["explain", "--debug"]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_unexpected_error_without_a_place_for_its_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    raising(monkeypatch, RuntimeError(""))
    assert frame.main(["explain"]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_interrupt_and_usage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    raising(monkeypatch, KeyboardInterrupt())
    assert frame.main(["explain"]) == 130
    assert frame.main(["explain", "--json", "--no-such-option"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "usage"


def test_reader_that_goes_away_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "optcc", "explain"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        complaint = process.stderr.read()
        assert (process.wait(timeout=300), complaint) == (141, b"")


@pytest.mark.parametrize("spelling", ["E104", "e104", "104"])
def test_explain(spelling: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.main(["explain", spelling, "--json"]) == 0
    page = json.loads(capsys.readouterr().out)
    assert page["code"] == "E104"
    assert "passes/fuse/qkv.py" in page["text"]


def test_explain_unknown_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.main(["explain", "E999"]) == 2
    assert "no error code 'E999'" in capsys.readouterr().err


def test_env_imports_no_torch_and_names_every_backend(root: Path) -> None:
    result, loaded = run_and_list("env", "--json")
    assert result.returncode == 0, result.stderr
    assert "torch" not in loaded
    data = json.loads(result.stdout)
    folders = {p.parent.name for p in (root / "backends").glob("*/__init__.py")}
    assert {row["name"] for row in data["backends"]} == folders
    assert all(row["available"] or row["hint"] for row in data["backends"])
    assert data["packages"]["numpy"] == importlib.metadata.version("numpy")
    assert data["host"]["cores"] >= 1


def test_recipes_lists_the_presets(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.main(["recipes", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == sorted(path.stem for path in (root / "recipes").glob("*.yaml"))
    assert all(row["description"] for row in rows)


def test_verify_refuses_what_is_no_artifact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.main(["verify", str(tmp_path), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "E601"


def write_artifact(out: Path) -> None:
    with ArtifactWriter(out) as writer:
        writer.write("model.ir", "graph model {}\n")
        writer.write_report("report.json", {"status": "ok"})
        model = ModelRef("tiny", "ab" * 32)
        writer.commit(Manifest("function", "0.1.0", {}, {}, "", {}, model, {}))


def test_verify_tells_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "artifact"
    write_artifact(out)
    assert frame.main(["verify", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True

    (out / "extra.bin").write_bytes(b"x")
    assert frame.main(["verify", str(out)]) == 2
    assert "extra.bin" in capsys.readouterr().out
    (out / "extra.bin").unlink()

    data = bytearray((out / "model.ir").read_bytes())
    data[3] ^= 1
    (out / "model.ir").write_bytes(data)
    assert frame.main(["verify", str(out)]) == 2
    captured = capsys.readouterr()
    assert "changed:  model.ir" in captured.out
    assert "error [E602]" in captured.err
    assert frame.main(["verify", str(out), "--json"]) == 2
    assert [p["path"] for p in json.loads(capsys.readouterr().out)["problems"]] == ["model.ir"]


def test_cpu_and_container_limit_are_read(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("model name\t: Some CPU\nflags\t\t: fpu avx2\n\nmodel name\t: other\n")
    assert read_cpu(tmp_path / "cpuinfo") == ("Some CPU", frozenset({"fpu", "avx2"}))
    assert read_cpu(tmp_path / "absent") == ("", frozenset())
    assert cgroup_limit(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    assert cgroup_limit(tmp_path) is None
    (tmp_path / "memory.max").write_text("2048\n")
    assert cgroup_limit(tmp_path) == 2048
