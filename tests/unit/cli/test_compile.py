"""`optcc compile`, `check` and `inspect` on a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cli.conftest import Cli


def test_report_is_whole_and_fits_the_terminal(
    cli: Cli, compiled: Path, model: Path, recipe: Path, tmp_path: Path
) -> None:
    out, cache = tmp_path / "out", compiled.parent / "cache"
    told = cli("compile", model, recipe, "-o", out, "--cache", cache)
    assert told.code == 0
    lines = told.out.splitlines()
    assert max(map(len, lines)) <= 100 or str(out) in max(lines, key=len)
    for words in (
        "talker → tiny → reference   ok",
        "serve.paged-kv   cached",
        "3 attentions over",
        "weights as captured",
        "the recipe doesn't list canonicalize.rope",
        "prose",
        "answers identical",
        "✓ pass      kl <= 1.0e-05",
        "prefill, 32 tokens",
        "peak memory",
        f'optcc run {out} "…"',
    ):
        assert words in told.out, words
    assert "  check " in told.err


def test_json_is_one_object_on_a_silent_stderr(
    cli: Cli, compiled: Path, model: Path, recipe: Path, tmp_path: Path
) -> None:
    out, cache = tmp_path / "out", compiled.parent / "cache"
    told = cli("compile", model, recipe, "-o", out, "--cache", cache, "--no-speed", "--json")
    assert (told.code, told.err) == (0, "")
    assert told.data["artifact"] == str(out)
    assert (told.data["status"], told.data["speed"]) == ("ok", None)
    assert told.data["passes"][0]["cached"] is True


def test_failed_gate_exits_1_and_says_what_to_change(
    cli: Cli, compiled: Path, model: Path, recipe: Path, tmp_path: Path
) -> None:
    out, cache = tmp_path / "out", compiled.parent / "cache"
    quantize = "passes.quantize=[quantize.linear: {scheme: int8-channel}]"
    told = cli("compile", model, recipe, "-o", out, "--cache", cache, "--no-speed", "--set", quantize)
    assert told.code == 1
    assert "✗ fail" in told.out
    assert "--set quantize.linear.scheme=int8-g64" in told.out
    assert "--set check.limits.kl=" in told.out
    refused = cli("run", out, "hi", "--max-tokens", "2", "--json")
    assert (refused.code, refused.error["code"]) == (2, "E604")
    assert cli("run", out, "hi", "--max-tokens", "2", "--force").code == 0
    again = cli("check", out, model, "--tokens", "256", "--set", "check.data=[code]")
    assert again.code == 1
    assert "  to accept the loss: --set check.limits.kl=" in again.out
    shown = cli("inspect", out)
    assert "talker → tiny → reference   failed" in shown.out
    assert "I8" in shown.out


def test_dump_and_diff(cli: Cli, model: Path, recipe: Path, tmp_path: Path) -> None:
    dumps = tmp_path / "ir"
    off = ["--set", "check.enabled=false", "--no-speed", "--no-cache"]
    told = cli("compile", model, recipe, "-o", tmp_path / "out", "--dump-ir", dumps, "--diff", *off)
    assert told.code == 0
    assert "unchecked" in told.out
    assert sorted(path.name for path in dumps.iterdir()) == ["000_captured.ir", "001_serve.paged-kv.ir"]
    assert "+  %kv_lengths : i32[R] = input" in told.err


def test_check_measures_again(cli: Cli, compiled: Path, model: Path, tmp_path: Path) -> None:
    text = tmp_path / "own.txt"
    text.write_text("\n\n".join(f"Sentence {i} is here to be read by a very small model." for i in range(60)))
    told = cli("check", compiled, model, "--data", text, "--tokens", "128", "--limit", "top1=0.5", "--json")
    assert told.code == 0, told
    assert [t["name"] for t in told.data["measurements"]["texts"]] == [str(text)]
    assert {v["metric"] for v in told.data["gate"]["verdicts"]} == {
        "kl",
        "top1",
        "structure",
        "rounding",
        "noise",
        "weights",
        "serving",
    }


def test_check_is_undecided_about_what_nothing_measures(cli: Cli, compiled: Path, model: Path) -> None:
    told = cli(
        "check", compiled, model, "--tokens", "128", "--set", "check.data=[code]", "--limit", "cosine=0.9"
    )
    assert told.code == 1
    assert "? undecided cosine >= 0.9" in told.out
    assert "nothing measures cosine of this model" in told.out.splitlines()[-1]


def test_check_refuses_another_model(cli: Cli, compiled: Path, function: Path) -> None:
    told = cli("check", compiled, f"{function.parent / 'net.py'}:make", "--json")
    assert (told.code, told.error["code"]) == (2, "E603")
    assert "was compiled from talker with digest" in told.error["what"]
    assert cli("check", compiled, "x", "--set", "target.threads=1", "--json").error["code"] == "E109"


def test_inspect(cli: Cli, compiled: Path, tmp_path: Path) -> None:
    shown = cli("inspect", compiled)
    assert shown.code == 0
    for words in ("weights.safetensors", "max_context", "serve.paged-kv", "✓ pass", "F32"):
        assert words in shown.out
    assert cli("inspect", compiled, "--ir").out.startswith("optcc.ir 1\n")
    listed = cli("inspect", compiled, "--weights", "--json").data
    assert listed["model.embed_tokens.weight"]["shape"] == [320, 64]
    assert cli("inspect", compiled, "--json").data["manifest"]["kind"] == "decoder"
    again = tmp_path / "again.yaml"
    again.write_text(cli("inspect", compiled, "--recipe").out)
    assert cli("plan", again, "--json").data["recipe"] == cli("inspect", compiled, "--recipe", "--json").data


@pytest.mark.parametrize("verb", ["compile", "run", "check", "inspect", "plan", "bench"])
def test_help_says_what_the_exit_means(verb: str, cli: Cli) -> None:
    told = cli(verb, "--help")
    assert told.code == 0
    assert max(map(len, told.out.splitlines())) <= 100
