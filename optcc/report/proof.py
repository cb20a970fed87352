"""The report's key `proof` as rows: what every pass and every kind of lowered operator was held to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def proof_rows(proof: Any) -> Sequence[Mapping[str, Any]]:
    """One row for each pass or stage that was measured, then one for each kind of lowered operator.

    Args:
        proof: as `optcc compile --prove` leaves it; a list of rows is taken as it is.

    Returns:
        Rows of `pass`, `contract`, `measured`, `bound` and `ok`; a `kl` where the report has one against the original.
    """
    if isinstance(proof, list):
        return [row for row in proof if isinstance(row, Mapping)]
    if not isinstance(proof, Mapping):
        return []
    rows = [_pass(row) for row in proof.get("passes") or () if "outcome" in row]
    lowered = proof.get("lowered") or {}
    return rows + [_operator(row, str(lowered["backend"])) for row in lowered.get("kinds") or ()]


def _pass(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "pass": ", ".join(row.get("passes") or [row["pass"]]),
        "contract": f"{row['contract']}, by {row['metric']}",
        "measured": row["measured"]["value"],
        "bound": row["bound"],
        "ok": row["outcome"] != "fail",
    }


def _operator(row: Mapping[str, Any], backend: str) -> dict[str, Any]:
    return {
        "pass": f"{row['operator']} on {backend}, {row['count']} of them, the worst at %{row['node']}",
        "contract": "tolerance, of its deviation",
        "measured": row["worst"],
        "bound": row["bound"],
        "ok": True,
    }
