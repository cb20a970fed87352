"""A pytest plugin: assert on a compiled model in one line. Installed with optcc; imports nothing until it is used.

def test_model(optcc_check):
    optcc_check("build/model", "models/mine", kl=0.02)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Check:
    """The fixture `optcc_check`: call it with an artifact and the model that it was compiled from."""

    record: Callable[[str, object], None]

    def __call__(
        self,
        artifact: Path | str,
        model: Path | str,
        *,
        kl: float | None = None,
        kl_p99: float | None = None,
        top1: float | None = None,
        nll: float | None = None,
        ppl_ratio: float | None = None,
        greedy: float | None = None,
        cosine: float | None = None,
        cosine_min: float | None = None,
        max_abs: float | None = None,
        sqnr: float | None = None,
        baseline: Path | str | None = None,
        data: Sequence[str] = (),
        tokens: int | None = None,
        threads: int | None = None,
    ) -> dict[str, Any]:
        """Measure the artifact against the model, and assert that every limit passes.

        Limits that aren't given are those of the recipe it was compiled with, its schemes' defaults among them.

        Args:
            artifact: directory of the artifact.
            model: path, hub id or factory of the original.
            kl, kl_p99, top1, nll, ppl_ratio, greedy: limits of a decoder, on every text.
            cosine, cosine_min, max_abs, sqnr: limits of a function, on every output.
            baseline: file that `optcc check --write-baseline` wrote; the artifact must not be worse.
            data, tokens: other texts, or another number of tokens, than the recipe's.
            threads: None takes the recipe's.

        Returns:
            Measurements and verdicts, in the shape of the report's `check`.

        Raises:
            AssertionError: a limit failed or is undecided; the message has each with its interval.
            OptccError: the artifact, the model or the data can't be used.
        """
        from optcc.cli.check import changes, check_again
        from optcc.diff.baseline import compare_baseline, read_baseline

        given = {
            "kl": kl,
            "kl_p99": kl_p99,
            "top1": top1,
            "nll": nll,
            "ppl_ratio": ppl_ratio,
            "greedy": greedy,
            "cosine": cosine,
            "cosine_min": cosine_min,
            "max_abs": max_abs,
            "sqnr": sqnr,
        }
        limits = [f"{metric}={value!r}" for metric, value in given.items() if value is not None]
        before = read_baseline(Path(baseline)) if baseline is not None else None
        wanted = changes(limits, list(data), tokens)
        opened, _, checked = check_again(Path(artifact), str(model), wanted, threads, quiet=True)
        found = checked.to_json()
        problems = [verdict.reason for verdict in checked.gate.problems]
        if before is not None:
            problems += _worse(compare_baseline(before, found, opened.bytes))
        for verdict in checked.gate.verdicts:
            if verdict.measured is not None:
                self.record(f"optcc {verdict.subject} {verdict.limit.metric}", verdict.measured.value)
        assert not problems, "\n".join([f"{artifact} is not what it should be:", *problems])
        return found


def _worse(comparison: Any) -> list[str]:
    from optcc.diff.baseline import baseline_rows

    problems = [
        f"{name} against the baseline {outcome}: {was} then, {now} now, {change}"
        for name, was, now, change, outcome in baseline_rows(comparison)
        if outcome != "pass"
    ]
    return problems + ([f"the baseline can't be compared: {comparison.reason}"] if comparison.reason else [])


@pytest.fixture
def optcc_check(record_property: Callable[[str, object], None]) -> Check:
    """Assert on a compiled model: `optcc_check(artifact, model, kl=0.02)`. Measurements become properties in JUnit."""
    return Check(record_property)
