"""Markdown, JUnit XML, the schema, scales."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optcc.report.junit import render_junit
from optcc.report.markdown import render_markdown
from optcc.report.proof import proof_rows
from optcc.report.scales import scale
from tools.report_schema import report_schema


def test_proof_as_a_compile_leaves_it_is_rows() -> None:
    measured = {"value": 0.5, "low": 0.4, "high": 0.6, "units": 4, "method": "t"}
    judged = {"contract": "kl", "metric": "kl", "measured": measured, "bound": 0.2, "outcome": "fail"}
    kind = {"operator": "optcc.rope.default", "count": 2, "worst": 1e-7, "node": "rope", "bound": 1e-5}
    proof = {
        "mode": "stages",
        "passes": [
            {"pass": "a", "contract": "exact", "held": True},
            {"pass": "c", "passes": ["b", "c"], **judged},
        ],
        "lowered": {"backend": "onnxruntime", "kinds": [kind]},
    }
    first, second = proof_rows(proof)
    assert (first["pass"], first["measured"], first["ok"]) == ("b, c", 0.5, False)
    assert second["pass"].startswith("optcc.rope.default on onnxruntime") and second["ok"]
    assert proof_rows({"mode": "end", "passes": [], "lowered": None}) == [] == proof_rows(None)


def test_markdown_holds_verdict_limits_and_commands(decoder: dict[str, Any]) -> None:
    page = render_markdown(decoder)
    assert page.startswith("### ✅ tiny → cpu-int4 → onnxruntime: passed\n")
    assert "| kl ≤ 0.25 | prose | 0.08 [0.07, 0.09] | ✅ pass |" in page
    assert "| decode, tokens/s | 10.0 (9.00-11.0) | 30.0 (27.0-33.0) | 3.00x |" in page
    assert "optcc rebuild build/x 'a model.gguf' -o AGAIN" in page
    for row in page.splitlines():
        assert not row.startswith("|") or row.endswith("|")


def test_markdown_puts_what_failed_first(failed: dict[str, Any]) -> None:
    failed["model"] = "a|b<i>"
    page = render_markdown(failed)
    assert page.startswith("### ❌ a\\|b&lt;i>")
    limits = [row for row in page.splitlines() if row.startswith(("| kl", "| top1"))]
    assert "❌ fail" in limits[0]
    assert "❔ undecided" in limits[1]


def test_markdown_of_a_function(function: dict[str, Any]) -> None:
    assert "| cosine ≥ 0.990000 | prose | 0.999500 [0.999400, 0.999600] | ✅ pass |" in render_markdown(
        function
    )


def test_junit_counts_and_names_every_limit(failed: dict[str, Any]) -> None:
    failed["fusions"][0]["reasons"] = ["bad \x00 character & <tag>"]
    root = ElementTree.fromstring(render_junit(failed))
    suite = root[0]
    cases = suite.findall("testcase")
    kinds = {(c.get("classname"), c.get("name")): [e.tag for e in c] for c in cases}
    assert kinds["optcc.accuracy.prose", "kl ≤ 0.05"] == ["failure"]
    assert kinds["optcc.speed", "speed ≥ 1.5"] == ["system-out"]
    assert kinds["optcc.proof", "quantize.gptq"] == ["failure"]
    assert kinds["optcc.fusions", "ropes"] == ["skipped"]
    assert kinds["optcc.ledger", "5 weights as int4-g64-a8"] == ["system-out"]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == (str(len(cases)), "4", "1")
    assert [f.get("type") for f in suite.iter("failure")] == ["fail", "undecided", "undecided", "fail"]


def test_junit_of_what_was_not_checked(function: dict[str, Any]) -> None:
    function["check"] = None
    suite = ElementTree.fromstring(render_junit(function))[0]
    assert (suite.get("failures"), suite.get("skipped")) == ("0", "1")


def test_schema_is_one_and_takes_what_reports_hold(decoder: dict[str, Any], function: dict[str, Any]) -> None:
    schema = json.loads(report_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(decoder, schema)
    jsonschema.validate(function, schema)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("version",), 2),
        (("status",), "fine"),
        (("ledger", "stored_bytes"), "many"),
        (("check", "gate", "verdicts", 0, "outcome"), "maybe"),
        (("check", "measurements", "texts", 0, "metrics", "kl"), {"value": 1.0}),
    ],
)
def test_schema_refuses_what_is_wrong(
    decoder: dict[str, Any], path: tuple[str | int, ...], value: object
) -> None:
    place: Any = decoder
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(decoder, json.loads(report_schema()))


def test_schema_file_is_up_to_date(root: Path) -> None:
    assert (root / "docs" / "report.schema.json").read_text() == report_schema()


_NUMBERS = st.lists(st.floats(-1e12, 1e12), max_size=6)


@given(values=_NUMBERS, log=st.booleans(), zero=st.booleans())
def test_scales_stay_on_the_page(values: list[float], log: bool, zero: bool) -> None:
    found = scale(values, 10.0, 200.0, log=log, zero=zero)
    for value in [v for v in values if v > 0 or not log]:
        assert 10.0 <= found(value) <= 200.0
    ticks = found.ticks()
    assert len(ticks) <= 12
    assert all(found.low <= t <= found.high * (1 + 1e-9) + 1e-9 for t in ticks)
