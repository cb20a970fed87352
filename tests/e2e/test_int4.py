"""The real SmolLM2 in 4 bits by GPTQ: within its limits and sizes, in bounded memory."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Compiled, Workshop

pytestmark = [pytest.mark.e2e, pytest.mark.prove]


@pytest.fixture(scope="module")
def int4(workshop: Workshop) -> Compiled:
    """Calibrated on a quarter and checked on two windows of each text, too few to decide limits by their intervals."""
    quick = ("calibrate.tokens=3072", "quantize.gptq.refine=0", "check.tokens=3072")
    return workshop.compile("smollm2", "cpu-int4", *quick, "check.limits.top1=0.6", "check.limits.nll=0.3")


def test_near_the_original_on_every_text(int4: Compiled) -> None:
    measured = {text["name"]: text for text in int4.report["check"]["measurements"]["texts"]}
    assert set(measured) == {"prose", "code", "chat"}
    assert all(text["metrics"]["kl"]["value"] <= 0.25 for text in measured.values())


def test_small(int4: Compiled) -> None:
    assert int4.report["artifact_bytes"] <= 95e6


def test_every_linear_of_the_body_is_calibrated_and_better_than_rounded(int4: Compiled) -> None:
    [record] = [row for row in int4.report["passes"] if row["step"].startswith("quantize.gptq")]
    rows = record["tables"]["weights"]
    assert len(rows) == 30 * 7
    assert all(row["method"] == "gptq" and row["error"] < 0.7 * row["nearest_error"] for row in rows)
    assert record["peak_bytes"] <= 2e9
