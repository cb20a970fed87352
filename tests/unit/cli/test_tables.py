"""Tables that passes leave, as a person reads them."""

from __future__ import annotations

import pytest

from optcc.cli.display import console
from optcc.cli.table import print_cost, print_tables


def test_short_tables_are_printed_and_long_ones_named(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {
            "step": "quantize.search{kl=0.1}",
            "tables": {
                "frontier": [
                    {"mixture": "all int4", "kl": 0.68123, "chosen": False},
                    {"mixture": "searched", "kl": 0.098, "chosen": True},
                ],
                "sensitivity": [{"weights": str(i), "kl": 0.0} for i in range(121)],
                "empty": [],
            },
        },
        {"step": "fuse.qkv"},
    ]
    print_tables(console(), rows)
    shown = capsys.readouterr().out
    assert "quantize.search: frontier" in shown and "0.681" in shown
    (chosen,) = [line for line in shown.splitlines() if "✓" in line]
    assert "searched" in chosen and "0.098" in chosen
    assert "quantize.search: sensitivity: 121 rows in report/report.json" in shown
    assert "empty" not in shown


def test_what_the_backend_lacked_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    report = {
        "backend": "onnxruntime",
        "stages": {"check": 2.0},
        "seconds": 2.5,
        "peak_bytes": 10**9,
        "anonymous_bytes": 10**8,
        "host": {"backend": ["native operators: not used: no compiler"]},
    }
    print_cost(console(), report)
    assert "onnxruntime: native operators: not used: no compiler" in capsys.readouterr().out
