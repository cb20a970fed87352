"""`optcc run` and `optcc bench offline` on a tiny model."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from optcc.cli.measure import quantile
from tests.unit.cli.conftest import Cli


def test_text_goes_to_stdout_and_timings_to_stderr(cli: Cli, compiled: Path) -> None:
    told = cli("run", compiled, "hello", "--max-tokens", "8")
    data = cli("run", compiled, "hello", "--max-tokens", "8", "--json").data
    assert told.code == 0
    assert told.out == data["text"] + "\n"
    assert "first after" in told.err
    assert "tokens/s" in told.err
    assert (data["new_tokens"], data["reason"]) == (8, "length")


def test_prompt_goes_through_the_template_unless_raw(cli: Cli, compiled: Path) -> None:
    def tokens(*args: str) -> int:
        found = cli("run", compiled, *args, "--max-tokens", "1", "--json").data["prompt_tokens"]
        assert isinstance(found, int)
        return found

    assert tokens("hello", "--raw") == len("hello")
    assert tokens("hello") == len("user: hello\nassistant:")
    assert tokens("hello", "--system", "s") == len("system: s\nuser: hello\nassistant:")


@pytest.mark.parametrize("spelling", [[], ["-"]])
def test_prompt_from_stdin(
    spelling: list[str], cli: Cli, compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
    told = cli("run", compiled, *spelling, "--raw", "--max-tokens", "1", "--json")
    assert told.data["prompt_tokens"] == len("hello")


def test_default_length_fits_the_context(cli: Cli, compiled: Path) -> None:
    data = cli("run", compiled, "x" * 100, "--raw", "--json").data
    assert data["prompt_tokens"] + data["new_tokens"] <= 128
    assert data["reason"] in ("length", "eos")


def test_sampling_is_repeatable(cli: Cli, compiled: Path) -> None:
    def tokens(seed: int) -> list[int]:
        options = [
            "--temperature",
            "2",
            "--top-k",
            "50",
            "--top-p",
            "0.99",
            "--seed",
            seed,
            "--max-tokens",
            "12",
        ]
        found: list[int] = cli("run", compiled, "hello", *options, "--json").data["tokens"]
        return found

    assert tokens(1) == tokens(1) != tokens(2)


def test_stop_text_ends_the_answer(cli: Cli, compiled: Path) -> None:
    whole = cli("run", compiled, "hello", "--max-tokens", "16", "--json").data["text"]
    stop = whole[4:6]
    data = cli("run", compiled, "hello", "--max-tokens", "16", "--stop", stop, "--json").data
    assert data["reason"] == "stop"
    assert data["text"] == whole[: whole.index(stop)]


def test_pool_size_changes_no_text(cli: Cli, compiled: Path) -> None:
    plain = cli("run", compiled, "hello", "--max-tokens", "20", "--json").data["tokens"]
    large = cli("run", compiled, "hello", "--max-tokens", "20", "--kv-tokens", "512", "--json").data["tokens"]
    assert plain == large


def test_ctrl_c_keeps_the_text_so_far(cli: Cli, compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interrupt arrives while the engine computes the fourth step."""
    from optcc.runtime.engine import Engine

    advance, calls = Engine._advance, iter(range(1000))

    def interrupted(self: Engine) -> None:
        if next(calls) == 3:
            raise KeyboardInterrupt
        advance(self)

    monkeypatch.setattr(Engine, "_advance", interrupted)
    told = cli("run", compiled, "hello", "--max-tokens", "30", "--json")
    assert told.code == 130
    assert (told.data["reason"], told.data["new_tokens"]) == ("cancelled", 3)


def test_signal_ends_a_real_process_cleanly(compiled: Path) -> None:
    command = [sys.executable, "-m", "optcc", "run", str(compiled), "hi", "--raw", "--max-tokens", "126"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.read(1)  # the answer has begun
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    assert process.returncode in (0, 130)  # the tiny model may be quicker than the signal
    assert out.endswith("\n")
    assert "Traceback" not in err
    assert "peak memory" in err


def test_function_is_called_with_arrays(cli: Cli, function: Path, tmp_path: Path) -> None:
    given, out = tmp_path / "x.npz", tmp_path / "y.npz"
    np.savez(given, x=np.ones((2, 32), np.float64))
    told = cli("run", function, "--inputs", given, "-o", out)
    assert told.code == 0
    assert "float32[2, 4]" in told.out
    (result,) = np.load(out).values()
    assert result.shape == (2, 4)
    for wrong in (
        {"y": np.ones((2, 32))},
        {"x": np.array([["a"]])},
        {"x": np.full((2, 32), 1e300)},
        {"x": np.ones((2, 32), np.complex64)},
    ):
        np.savez(given, **wrong)
        refused = cli("run", function, "--inputs", given, "-o", tmp_path / "z.npz")
        assert (refused.code, refused.out) == (2, ""), wrong
        assert "Traceback" not in refused.err
    assert not (tmp_path / "z.npz").exists()


def test_bench_offline(cli: Cli, compiled: Path) -> None:
    small = [
        "--requests",
        "2",
        "--prompt-tokens",
        "8",
        "--new-tokens",
        "4",
        "--rounds",
        "2",
        "--threads",
        "1",
    ]
    data = cli("bench", "offline", compiled, *small, "--json").data
    assert data["load"] == {"requests": 2, "prompt_tokens": 8, "new_tokens": 4, "rounds": 2}
    for rate in (data["prefill"], data["decode"], data["throughput"], data["inter_token"]["p99"]):
        assert 0 < rate["low"] <= rate["median"] <= rate["high"]
    told = cli("bench", "offline", compiled, *small)
    assert "generated tokens/s, 2 requests at once" in told.out
    assert cli("bench", "offline", compiled, "--prompt-tokens", "200", "--json").error["code"] == "E702"


def test_quantile_is_a_value_that_was_seen() -> None:
    values = [3.0, 1.0, 2.0, 4.0]
    assert [quantile(values, share) for share in (0.0, 0.25, 0.5, 0.99, 1.0)] == [1.0, 1.0, 2.0, 4.0, 4.0]


@pytest.fixture
def loaded(compiled: Path) -> set[str]:
    """Modules that a real `optcc run` has imported by the time it refuses a prompt that is too long."""
    program = (
        "import sys; from optcc.cli.main import main; code = main(sys.argv[1:]);"
        "print(*sys.modules, sep='\\n'); sys.exit(code)"
    )
    command = [sys.executable, "-c", program, "run", str(compiled), "x" * 500]
    began = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ})
    assert result.returncode == 2, result.stderr
    assert time.perf_counter() - began < 30
    return set(result.stdout.split())


def test_nothing_heavy_is_imported_but_the_executor(loaded: set[str]) -> None:
    """The reference backend's is torch itself; e2e/test_smollm2.py runs ONNX Runtime's without."""
    assert "tokenizers" in loaded
    assert loaded & {"transformers", "rich", "onnxruntime"} == set()
