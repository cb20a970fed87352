"""The report as Markdown, short enough for a pull request: the verdict, the limits, what changed, sizes and speed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from optcc.numbers import bytes_delta, human_bytes, human_seconds, interval, number, spread, times
from optcc.report.commands import commands
from optcc.report.sentence import WORDS, shown, status_of, verdict_sentence
from optcc.report.shape import CheckJson, ReportJson, RooflineJson, VerdictJson

MARKS = {"pass": "✅ pass", "fail": "❌ fail", "undecided": "❔ undecided"}
_SIGNS = {"ok": "✅", "failed": "❌", "undecided": "❔", "unchecked": "❔"}


def render_markdown(report: ReportJson) -> str:
    """A GitHub-flavoured page; long tables are folded."""
    status = status_of(report)
    title = f"{_SIGNS[status]} {report['model']} → {report['recipe']} → {report['backend']}: {WORDS[status]}"
    lines = [f"### {cell(title)}", "", verdict_sentence(report), ""]
    if report["check"]:
        lines += check_lines(report["check"])
    if speed := report.get("speed_limit"):
        row = (limit_text(speed), speed["subject"], _measured(speed), MARKS[speed["outcome"]])
        lines += table(("limit", "on", "measured [95 %]", ""), [row])
    lines += _sizes(report)
    lines += folded("What every pass did", _passes(report))
    roofline = report.get("roofline")
    lines += folded("Why it is as fast as it is", [*_sentences(roofline), ""] if roofline else [])
    again = commands(report)
    lines += [f"Again: `{again.check}`; the same bytes: `{again.rebuild}`.", ""]
    digests = report["digests"]
    lines += [f"<sub>artifact {digests['artifact'][:16]}… · model {digests['model'][:16]}…</sub>", ""]
    return "\n".join(lines)


def _sentences(roofline: RooflineJson) -> list[str]:
    return [f"- {cell(sentence)}" for sentence in roofline["sentences"]]


def check_lines(check: CheckJson) -> list[str]:
    """The limits with what was measured; limits that don't pass come first."""
    order = {"fail": 0, "undecided": 1, "pass": 2}
    verdicts = sorted(check["gate"]["verdicts"], key=lambda v: order[v["outcome"]])
    rows = [(limit_text(v), v["subject"], _measured(v), MARKS[v["outcome"]]) for v in verdicts]
    lines = list(table(("limit", "on", "measured [95 %]", ""), rows)) if rows else []
    found = check["measurements"]
    if "texts" in found:
        for text in [*found["texts"], *([found["total"]] if len(found["texts"]) > 1 else [])]:
            before, after = number(text["perplexity_original"]), number(text["perplexity_artifact"])
            lines.append(
                f"- {text['name']}, {text['tokens']:,} tokens: KL {interval(text['metrics']['kl'])} nats per token, "
                f"perplexity {before} → {after}"
            )
        lines.append("")
    lines += [f"Note: {note}." for note in check.get("notes", [])]
    return lines


def limit_text(verdict: VerdictJson) -> str:
    """`kl ≤ 0.25`."""
    relation = "≤" if verdict["direction"] == "at-most" else "≥"
    return f"{verdict['metric']} {relation} {shown(verdict['metric'])(verdict['limit'])}"


def _measured(verdict: VerdictJson) -> str:
    if verdict["measured"] is None:
        return "not measured"
    return interval(verdict["measured"], shown(verdict["metric"]))


def _sizes(report: ReportJson) -> list[str]:
    before, after = report["ledger"]["original_bytes"], report["artifact_bytes"]
    smaller = f"{times(before / after)} smaller" if before > after else ""
    rows = [("size", human_bytes(before), human_bytes(after), smaller)]
    if speed := report["speed"]:
        for kind in ("prefill", "decode"):
            original, artifact = speed["original"][kind], speed["artifact"][kind]
            ratio = speed["ratio"][kind]
            rows.append((f"{kind}, tokens/s", spread(original), spread(artifact), times(ratio)))
    return list(table(("", "original", "artifact", ""), rows))


def _passes(report: ReportJson) -> list[str]:
    rows, size = [], report["ledger"]["original_bytes"]
    for row in report["passes"]:
        did = [f"{rule} {count}" for rule, count in row["hits"].items() if count] + row["notes"]
        did += [f"{len(row['misses'])} near misses"] if row["misses"] else []
        time = "cached" if row["cached"] else human_seconds(row["seconds"])
        delta = bytes_delta(row["weight_bytes"], size)
        rows.append((f"`{row['step'].partition('{')[0]}`", time, str(row["nodes"]), delta, ", ".join(did)))
        size = row["weight_bytes"]
    return list(table(("pass", "time", "operators", "weights", "what it did"), rows))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table and an empty line after it."""
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(cell(value) for value in row)} |"
    yield ""


def cell(text: str) -> str:
    """Text that can't break out of its table or become HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def folded(title: str, lines: Sequence[str]) -> list[str]:
    """Lines behind a summary."""
    return ["<details><summary>" + title + "</summary>", "", *lines, "</details>", ""] if lines else []


def check_markdown(
    artifact: str, model: str, checked: Mapping[str, Any], comparison: Sequence[str] = ()
) -> str:
    """The page of `optcc check`: `checked` has the shape of the report's `check`; `comparison` is with a baseline."""
    status = checked["gate"]["status"]
    lines = [f"### {_SIGNS[status]} {cell(artifact)}: {WORDS[status]}", ""]
    lines += check_lines(checked)  # type: ignore[arg-type]
    lines += comparison
    return "\n".join([*lines, f"Again: `optcc check {artifact} {model}`.", ""])
