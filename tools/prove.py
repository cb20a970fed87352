"""Runs the tests marked `prove` and writes what passed: benchmarks/results/prove-<date>.md.

`python -m tools.prove [PYTEST ARGUMENTS]`; what a test printed is the figure that stands beside it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

from optcc.host import read_host

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
_FOLDER = re.compile(r"\S*/pytest-of-[^/]+/pytest-\d+/")
"""Where pytest keeps a run's temporary folders: says nothing to a reader."""
_PACKAGES = ("torch", "transformers", "onnxruntime", "numpy")


def rows(report: Path) -> list[tuple[str, str, float, str]]:
    """(test, outcome, seconds, what it printed) of a JUnit file."""
    found = []
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        outcome = next(
            (child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed"
        )
        printed = (case.findtext("system-out") or "").strip().splitlines()
        told = "; ".join(line for line in printed if line and not line.startswith("---"))
        name = f"{case.get('classname', '').removeprefix('tests.').replace('.', '/')}: {case.get('name')}"
        found.append((name, outcome, float(case.get("time", 0)), _FOLDER.sub("", told)))
    return found


def revision() -> str:
    """The commit, and whether something is changed that is not committed."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def page(found: list[tuple[str, str, float, str]], commit: str) -> str:
    """The results as a page."""
    host = read_host(ROOT)
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    passed = sum(outcome == "passed" for _, outcome, _, _ in found)
    lines = [
        f"# Long tests, {date.today()}",
        "",
        f"Commit {commit}; {host.cores} cores, {host.cpu}; {host.python}, {packages}.",
        f"{passed} of {len(found)} passed. Repeat with `python -m tools.prove`.",
        "",
        "| test | outcome | seconds | figures |",
        "|---|---|---|---|",
    ]
    for name, outcome, seconds, told in found:
        lines.append(f"| {name} | {outcome} | {seconds:.0f} | {told.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Exit code of pytest."""
    commit = revision()  # before the tests: they are what it names
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-m",
            "prove",
            "-o",
            "junit_logging=system-out",
        ]
        command += ["--timeout", "3600", f"--junitxml={report}", *sys.argv[1:]]
        code = subprocess.run(command, cwd=ROOT, env={**os.environ, "OPTCC_PROVE": "1"}).returncode
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"prove-{date.today()}.md").write_text(page(rows(report), commit))
    return code


if __name__ == "__main__":
    raise SystemExit(main())
