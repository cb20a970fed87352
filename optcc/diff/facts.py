"""What differs between two artifacts: recipe, pipeline, graph, tensors, sizes, accuracy, speed."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from optcc.artifact import Artifact
from optcc.diff.accuracy import AccuracyChange, accuracy_changes
from optcc.diff.tensors import TensorChange, tensor_changes

_NUMBER = re.compile(r"\.\d+\.")
_MACHINE = ("cpu", "system", "threads")


@dataclass(frozen=True)
class Change:
    """One named fact on both sides; None where a side hasn't got it."""

    name: str
    left: str | None
    right: str | None


@dataclass(frozen=True)
class GraphChange:
    """The two final graphs.

    Attributes:
        operators: operators whose number differs, with both numbers.
        same, removed, added: lines of the graph's text, names of values left out.
        lines: what was removed (`-`) and added (`+`), lines that differ in a layer's number alone taken together.
    """

    operators: tuple[tuple[str, int, int], ...]
    same: int
    removed: int
    added: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class ArtifactDiff:
    """Everything that differs. `identical` means that the manifests' digests are the same: not a byte differs."""

    left: str
    right: str
    identical: bool
    model: tuple[Change, ...]
    recipe: tuple[Change, ...]
    pipeline: tuple[str, ...]
    graph: GraphChange
    tensors: tuple[TensorChange, ...]
    sizes: tuple[Change, ...]
    accuracy: tuple[AccuracyChange, ...]
    not_comparable: str
    speed: tuple[Change, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def diff_artifacts(left: Artifact, right: Artifact, *, values: bool = False) -> ArtifactDiff:
    """Compare two artifacts.

    Args:
        left, right: opened.
        values: also dequantize tensors and measure how far their values are apart; reads both weight files once.

    Raises:
        CorruptArtifact, CorruptWeights: a file can't be read.
    """
    a, b = left.manifest, right.manifest
    reports = left.report(), right.report()
    accuracy, reason = accuracy_changes(*reports)
    return ArtifactDiff(
        left=str(left.root),
        right=str(right.root),
        identical=a.digest == b.digest,
        model=tuple(
            changes(
                {"model": asdict(a.model), "kind": a.kind, "optcc": a.optcc_version, "target": a.target},
                {"model": asdict(b.model), "kind": b.kind, "optcc": b.optcc_version, "target": b.target},
            )
        ),
        recipe=tuple(changes(a.recipe, b.recipe)),
        pipeline=tuple(line_diff(a.pipeline.split("\n"), b.pipeline.split("\n"))),
        graph=graph_change(_text(left), _text(right)),
        tensors=tuple(tensor_changes(left, right, values=values)),
        sizes=tuple(_sizes(left, right, *reports)),
        accuracy=tuple(accuracy),
        not_comparable=reason,
        speed=tuple(_speed(*reports)),
    )


def changes(left: Mapping[str, Any], right: Mapping[str, Any], prefix: str = "") -> list[Change]:
    """Values that differ, by dotted name."""
    found: list[Change] = []
    for key in dict.fromkeys([*left, *right]):
        a, b = left.get(key), right.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += changes(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(Change(f"{prefix}{key}", _plain(a), _plain(b)))
    return found


def _plain(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _text(artifact: Artifact) -> str:
    return artifact.path("model.ir").read_text("utf-8") if artifact.has("model.ir") else ""


def graph_change(left: str, right: str) -> GraphChange:
    """Compare two graphs in text form.

    A line is an operator with its types, options and weights; values are renamed by the place where they are made, so
    that one inserted operator doesn't change the names of all that follow.
    """
    counts = [Counter(_operators(text)) for text in (left, right)]
    operators = tuple(
        (name, counts[0][name], counts[1][name])
        for name in sorted(counts[0].keys() | counts[1].keys())
        if counts[0][name] != counts[1][name]
    )
    a, b = _statements(left), _statements(right)
    if a == b:
        return GraphChange(operators, len(a), 0, 0, ())
    lines = line_diff(a, b)
    removed, added = sum(x.startswith("-") for x in lines), sum(x.startswith("+") for x in lines)
    return GraphChange(operators, len(a) - removed, removed, added, tuple(taken_together(lines)))


def taken_together(lines: Sequence[str]) -> list[str]:
    """Lines that are the same but for a layer's number as one, with how often it comes: `-30 x optcc.rope…`."""
    counts = Counter(_NUMBER.sub(".*.", line) for line in lines)
    return [f"{line[0]}{f'{n} x ' if n > 1 else ''}{line[1:]}" for line, n in counts.items()]


def _operators(text: str) -> list[str]:
    found = []
    for line in text.splitlines():
        head, equals, rest = line.strip().partition(" = ")
        if equals and head.startswith("%"):
            found.append(rest.partition("(")[0])
    return found


def _statements(text: str) -> list[str]:
    """Operators without names of values and places in the source."""
    found = []
    for line in text.splitlines():
        head, equals, rest = line.strip().partition(" = ")
        if equals and head.startswith("%"):
            body = rest.rpartition("  // ")[0] or rest
            kind = head.partition(" : ")[2]
            operator, _, arguments = body.partition("(")
            kept = [
                part for part in arguments.rstrip(")").split(", ") if not part.lstrip("[(").startswith("%")
            ]
            found.append(f"{operator}({', '.join(kept)}) -> {kind}")
    return found


def line_diff(left: Sequence[str], right: Sequence[str]) -> list[str]:
    """Lines that were removed (`-`) and added (`+`), in order."""
    found: list[str] = []
    # Lines that come often are what a graph is made of; they are no junk.
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag != "equal":
            found += [*(f"-{line}" for line in left[a:b]), *(f"+{line}" for line in right[c:d])]
    return found


def _sizes(left: Artifact, right: Artifact, a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Change]:
    sides: list[dict[str, Any]] = []
    for artifact, report in ((left, a), (right, b)):
        ledger = report.get("ledger", {})
        kv = ledger.get("kv") or {}
        sides.append(
            {
                "artifact": artifact.bytes,
                **{f"file {name}": entry.bytes for name, entry in artifact.manifest.files.items()},
                **{f"weights as {s['scheme']}": s["values"] + s["scales"] for s in ledger.get("schemes", [])},
                "plain weights": ledger.get("plain_bytes"),
                "a token in the KV cache": kv.get("token_bytes"),
            }
        )
    return changes(sides[0], sides[1])


def _speed(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Change]:
    """Median rates, when both were measured on the same machine with as many threads."""
    if not a.get("speed") or not b.get("speed"):
        return []
    hosts = [{key: report["host"].get(key) for key in _MACHINE} for report in (a, b)]
    if hosts[0] != hosts[1]:
        return []
    return [
        Change(kind, *(f"{r['speed']['artifact'][kind]['median']:.4g} tokens/s" for r in (a, b)))
        for kind in ("prefill", "decode")
    ]
