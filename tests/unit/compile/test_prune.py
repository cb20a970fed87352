"""The cache stays below its limit, loses what was used longest ago, and nothing that is in use."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from optcc.cache import DEFAULT_LIMIT, Item, cache_limit, clear, contents, prune, using
from optcc.compile import CompileOptions, CompileResult, compile_model
from optcc.errors import BadSetting, CacheInUse
from optcc.recipe import load_recipe
from tests import zoo
from tests.unit.cli.conftest import Cli, cli  # noqa: F401

SMALL = ["target.backend=reference", "target.threads=1", "check.enabled=false"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("model") / "llama"
    zoo.save("llama", directory)
    return str(directory)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPTCC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def build(model: str, recipe: str, out: Path) -> CompileResult:
    return compile_model(model, load_recipe(recipe, SMALL), out, CompileOptions(speed=False))


def size(root: Path) -> int:
    return sum(item.bytes for item in contents(root))


def age(items: list[Item], seconds: float) -> None:
    for item in items:
        os.utime(item.path, (time.time() - seconds,) * 2)


def test_what_was_used_longest_ago_goes_first(model: str, cache: Path, tmp_path: Path) -> None:
    build(model, "cpu-int8", tmp_path / "int8")
    first = [item for item in contents(cache) if item.kind == "passes"]
    for index, item in enumerate(first):
        age([item], 3600 + index)
    build(model, "cpu-fp32", tmp_path / "fp32")
    kept = {item.path for item in contents(cache)} - {item.path for item in first}
    # What both share (the captured module, canonicalizing) was dated anew where the second compile went on from it.
    dates = {item.path: item.used for item in contents(cache)}
    assert sum(dates[item.path] > time.time() - 600 for item in first) == 1
    entries = {item.path: item.used for item in contents(cache) if item.kind == "passes"}
    oldest = min(entries, key=lambda path: entries[path])
    while entries.keys() <= {item.path for item in contents(cache)}:  # first tensors that no entry names
        before = size(cache)
        assert prune(cache, before - 1) == before - size(cache) > 0
    assert entries.keys() - {item.path for item in contents(cache)} == {oldest}
    # Down to what the second compile made: the int8 tensors have gone with the entries that named them.
    prune(cache, sum(item.bytes for item in contents(cache) if item.path in kept))
    assert not any(item.kind == "tensors" and item.path not in kept for item in contents(cache))
    assert all(row.cached for row in build(model, "cpu-fp32", tmp_path / "again").report.passes)
    assert not all(row.cached for row in build(model, "cpu-int8", tmp_path / "anew").report.passes)


def test_leftovers_of_killed_compiles_go_before_anything_else(
    model: str, cache: Path, tmp_path: Path
) -> None:
    build(model, "cpu-int8", tmp_path / "out")
    useful = {item.path for item in contents(cache)}
    digest = "0" * 64
    (cache / "tensors" / f".{digest}.bin.4711").write_bytes(bytes(1000))
    (cache / "tensors" / f"{digest}.bin").write_bytes(bytes(1000))
    (cache / "passes" / f".{digest}.4711").mkdir()
    (cache / "passes" / f".{digest}.4711" / "module.ir").write_bytes(bytes(1000))
    assert prune(cache, size(cache) - 3000) == 3000
    assert {item.path for item in contents(cache)} == useful


def test_a_compile_prunes_when_it_ends(
    model: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTCC_CACHE_LIMIT", "600 kB")
    build(model, "cpu-int8", tmp_path / "out")
    assert 300_000 < size(cache) <= 600_000
    assert (tmp_path / "out" / "manifest.json").is_file()


def test_nothing_in_use_is_removed(model: str, cache: Path, tmp_path: Path) -> None:
    over = threading.Event()
    freed: list[int] = []

    def greedy() -> None:
        while not over.is_set():
            freed.append(prune(cache, 0))
            time.sleep(0.01)

    with using(cache):
        assert prune(cache, 0) == 0
        with pytest.raises(CacheInUse):
            clear(cache)
        thread = threading.Thread(target=greedy)
        thread.start()
        try:
            build(model, "cpu-int8", tmp_path / "out")
        finally:
            over.set()
            thread.join()
        assert len(freed) > 10
        assert sum(freed) == 0
    assert all(row.cached for row in build(model, "cpu-int8", tmp_path / "again").report.passes)
    assert prune(cache, 0) > 0
    assert contents(cache) == []


def test_a_converted_model_stays_for_a_day(cache: Path) -> None:
    folder = cache / "converted" / "abc-1"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(5000))
    (cache / "lock").touch()
    assert prune(cache, 0) == 0
    age(contents(cache), 25 * 3600)
    assert prune(cache, 0) == 5000
    assert contents(cache) == []


@pytest.mark.parametrize(
    ("text", "size"),
    [("", DEFAULT_LIMIT), ("0", 0), ("123", 123), ("5GB", 5 * 10**9), (" 1.5 mb ", 1_500_000), ("7kB", 7000)],
)
def test_limit(monkeypatch: pytest.MonkeyPatch, text: str, size: int) -> None:
    monkeypatch.setenv("OPTCC_CACHE_LIMIT", text)
    assert cache_limit() == size


@pytest.mark.parametrize("text", ["much", "-1", "5 pounds", "1e9", "GB"])
def test_a_limit_that_is_no_size_is_refused_before_any_work(
    model: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("OPTCC_CACHE_LIMIT", text)
    with pytest.raises(BadSetting, match="OPTCC_CACHE_LIMIT"):
        build(model, "cpu-int8", tmp_path / "out")
    assert contents(cache) == []


def test_show_and_clear(model: str, cache: Path, tmp_path: Path, cli: Cli) -> None:  # noqa: F811
    assert cli("cache", "show", "--json").data["bytes"] == 0
    assert cli("cache", "clear", "--json").data["removed"] == 0
    build(model, "cpu-int8", tmp_path / "out")
    (cache / "passes" / "mine.txt").write_text("not ours")
    data = cli("cache", "show", "--json").data
    assert (data["path"], data["limit"], data["bytes"]) == (str(cache), DEFAULT_LIMIT, size(cache))
    assert data["kinds"]["passes"]["count"] > 15
    assert data["kinds"]["tensors"]["bytes"] > 1000
    shown = cli("cache", "show", "--cache", cache)
    assert "in all" in shown.out and "of 20.0 GB" in shown.out
    with using(cache):
        busy = cli("cache", "clear", "--json")
    assert (busy.code, busy.error["code"]) == (2, "E607")
    assert cli("cache", "clear").out.endswith("removed\n")
    assert cli("cache", "show", "--json").data["bytes"] == 0
    assert [p.name for p in cache.rglob("*") if p.is_file()] in (["lock", "mine.txt"], ["mine.txt", "lock"])
