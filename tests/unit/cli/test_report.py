"""`optcc report`, and the files that a compile writes beside its artifact."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import jsonschema

from tests.unit.cli.conftest import Cli


def test_forms(cli: Cli, compiled: Path, function: Path, tmp_path: Path, root: Path) -> None:
    page = tmp_path / "page.html"
    assert cli("report", compiled, "-o", page).code == 0
    assert page.read_text() == (compiled / "report" / "report.html").read_text()
    assert cli("report", compiled, "--format", "md").out.startswith(
        "### ✅ talker → tiny → reference: passed"
    )
    suite = ElementTree.fromstring(cli("report", compiled, "--format", "junit").out)[0]
    assert suite.get("failures") == "0"
    schema = json.loads((root / "docs" / "report.schema.json").read_text())
    for artifact in (compiled, function):
        told = cli("report", artifact, "--json")
        jsonschema.validate(told.data, schema)
        assert told.data["command"]["out"] == str(artifact)


def test_compile_writes_them_even_when_the_gate_fails(
    cli: Cli, compiled: Path, model: Path, recipe: Path, tmp_path: Path
) -> None:
    junit, markdown, cache = tmp_path / "r.xml", tmp_path / "r.md", compiled.parent / "cache"
    options = ("--cache", cache, "--no-speed", "--junit", junit, "--markdown", markdown, "--set")
    quantize = "passes.quantize=[quantize.linear: {scheme: int8-channel}]"
    told = cli("compile", model, recipe, "-o", tmp_path / "out", *options, quantize)
    assert told.code == 1
    assert int(ElementTree.parse(junit).getroot().get("failures") or 0) >= 1
    assert "❌ fail" in markdown.read_text()
    assert f"--set '{quantize}'" in (tmp_path / "out" / "report" / "report.html").read_text().replace(
        "&#39;", "'"
    )
