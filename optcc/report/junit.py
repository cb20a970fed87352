"""The report as JUnit XML, which every CI system draws: each limit of each text is a test case, as are ledger, fusions
and the proof of every pass.

A limit that failed is a `<failure>`; an undecided one too, since what isn't proven isn't right, with the type
`undecided`. Times are seconds. The format is that of Jenkins' xunit plugin: testsuites > testsuite > testcase.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from optcc.numbers import human_bytes, number
from optcc.report.markdown import limit_text
from optcc.report.proof import proof_rows
from optcc.report.sentence import limit_sentence
from optcc.report.shape import CheckJson, ReportJson, VerdictJson

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Case:
    """One test case: `failure` is (type, message) unless it passed, `skipped` why it didn't run."""

    group: str
    name: str
    words: str = ""
    failure: tuple[str, str] | None = None
    skipped: str = ""
    seconds: float = 0.0


def render_junit(report: ReportJson) -> str:
    """The whole report."""
    check = report["check"]
    if check is not None:
        cases = check_cases(check)
    else:
        cases = [Case("accuracy", "limits", skipped="the recipe turns the check off")]
    if speed := report.get("speed_limit"):
        cases.append(_case("speed", speed, report["stages"].get("speed", 0.0)))
    cases += [*_ledger(report), *_fusions(report), *_proof(report.get("proof"))]
    name = f"optcc {report['model']} {report['recipe']} {report['backend']}"
    properties = {**report["digests"], "status": report["status"]}
    return suites(name, cases, report["seconds"], properties)


def check_cases(check: CheckJson) -> list[Case]:
    """A case for every limit on every text or output; the check's time is divided among them."""
    verdicts, found = check["gate"]["verdicts"], check["measurements"]
    share = (found["original_seconds"] + found["artifact_seconds"]) / max(1, len(verdicts))
    return [_case(f"accuracy.{v['subject']}", v, share) for v in verdicts]


def _case(group: str, verdict: VerdictJson, seconds: float) -> Case:
    failure = None if verdict["outcome"] == "pass" else (verdict["outcome"], limit_sentence(verdict))
    return Case(group, limit_text(verdict), verdict["reason"], failure, seconds=seconds)


def _ledger(report: ReportJson) -> list[Case]:
    """A compile whose ledger doesn't balance leaves no artifact, so what is here did."""
    ledger = report["ledger"]
    cases = [
        Case("ledger", f"{s['weights']} weights as {s['scheme']}", human_bytes(s["values"] + s["scales"]))
        for s in ledger.get("schemes", [])
    ]
    return [*cases, Case("ledger", "stored bytes are accounted for", human_bytes(ledger["stored_bytes"]))]


def _fusions(report: ReportJson) -> list[Case]:
    """Fewer operators than the configuration implies is no error by itself: the case is skipped, with the reasons."""
    cases = []
    for row in report["fusions"]:
        words = f"{row['found']} of {row['expected']} implied"
        short = row["found"] < row["expected"]
        cases.append(
            Case("fusions", row["kind"], words, skipped="; ".join([words, *row["reasons"]]) if short else "")
        )
    return cases


def _proof(proof: object) -> list[Case]:
    return [_proven(row) for row in proof_rows(proof)]


def _proven(row: Mapping[str, Any]) -> Case:
    words = (
        f"{row.get('contract')}: measured {_figure(row.get('measured'))}, bound {_figure(row.get('bound'))}"
    )
    return Case("proof", str(row["pass"]), words, None if row.get("ok") else ("fail", words))


def _figure(value: object) -> str:
    return number(value) if isinstance(value, int | float) else str(value)


def suites(name: str, cases: Iterable[Case], seconds: float, properties: Mapping[str, str]) -> str:
    """The XML of one suite."""
    cases = list(cases)
    failures, skipped = sum(c.failure is not None for c in cases), sum(bool(c.skipped) for c in cases)
    counts = {
        "name": _text(name),
        "tests": str(len(cases)),
        "failures": str(failures),
        "errors": "0",
        "skipped": str(skipped),
        "time": f"{seconds:.3f}",
    }
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", counts)
    listed = ElementTree.SubElement(suite, "properties")
    for key, value in properties.items():
        ElementTree.SubElement(listed, "property", {"name": _text(key), "value": _text(value)})
    for case in cases:
        head = {
            "classname": _text(f"optcc.{case.group}"),
            "name": _text(case.name),
            "time": f"{case.seconds:.3f}",
        }
        element = ElementTree.SubElement(suite, "testcase", head)
        if case.failure:
            kind, message = case.failure
            failure = ElementTree.SubElement(element, "failure", {"type": kind, "message": _text(message)})
            failure.text = _text(case.words or message)
        elif case.skipped:
            ElementTree.SubElement(element, "skipped", {"message": _text(case.skipped)})
        elif case.words:
            ElementTree.SubElement(element, "system-out").text = _text(case.words)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _text(value: str) -> str:
    """Without the characters that XML has no spelling for."""
    return _FORBIDDEN.sub("�", str(value))
