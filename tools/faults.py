"""Plants every fault of tests/faults and writes what caught it: benchmarks/results/faults-<date>.md.

`python -m tools.faults [--only TEXT] [--recipe NAME] [--record FILE] [--out FILE]`. The record is JSON lines; what is
in it already is not run again, so that a long run may be stopped and continued.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date
from pathlib import Path

from optcc.host import read_host
from tests.faults.bench import Bench
from tests.faults.catalogue import FAULTS
from tests.faults.fault import Fault, Outcome
from tools.prove import ROOT, revision


def chosen(only: str, recipe: str) -> Iterator[tuple[Fault, str]]:
    """Faults and recipes whose names match."""
    for fault in FAULTS:
        for name in fault.recipes:
            if only in f"{fault.place} {fault.name}" and recipe in ("", name):
                yield fault, name


def page(outcomes: list[Outcome], commit: str) -> str:
    """The results as a page."""
    host = read_host(ROOT)
    places = {f.name: (f.place, f.model) for f in FAULTS}
    caught = sum(o.caught for o in outcomes)
    faults = {o.fault for o in outcomes}
    everywhere = {f for f in faults if all(o.caught for o in outcomes if o.fault == f)}
    summary = (
        f"{len(faults)} faults under {len({o.recipe for o in outcomes})} recipes, {len(outcomes)} compiles of tiny "
        f"models at the presets' own limits: {caught} compiles fail ({caught / len(outcomes):.1%}); {len(everywhere)} "
        "faults are caught under every recipe that they were planted in."
    )
    lines = [
        f"# Planted faults, {date.today()}",
        "",
        f"Commit {commit}; {host.cores} cores, {host.cpu}; {host.python}. Repeat with `python -m tools.faults`.",
        "",
        summary,
        "",
        "| fault | strikes | model | recipe | caught by | figure |",
        "|---|---|---|---|---|---|",
    ]
    for o in outcomes:
        place, model = places.get(o.fault, ("", ""))
        by = o.by if o.caught else f"**not caught** ({o.by})"
        lines.append(f"| {o.fault} | {place} | {model} | {o.recipe} | {by} | {o.figure.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """0 if every fault was caught."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of a fault's place and name")
    parser.add_argument("--recipe", default="", help="one recipe of tests/faults/bench.py")
    parser.add_argument("--record", type=Path, help="JSON lines of what has been run")
    parser.add_argument("--folder", type=Path, help="where models and artifacts are kept")
    parser.add_argument("--out", type=Path, help="the page")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(given.folder or Path(scratch))
        record = given.record or Path(scratch) / "record.jsonl"
        lines = record.read_text().splitlines() if record.exists() else []
        done = {(o.fault, o.recipe): o for o in (Outcome(**json.loads(line)) for line in lines)}
        outcomes: list[Outcome] = []
        for fault, recipe in chosen(given.only, given.recipe):
            outcome = done.get((fault.name, recipe))
            if outcome is None:
                outcome = bench.judge(fault, recipe)
                with record.open("a") as file:
                    file.write(json.dumps(asdict(outcome)) + "\n")
            mark = "caught" if outcome.caught else "MISSED"
            print(
                f"{mark} {outcome.recipe:9} {outcome.fault}: {outcome.by}: {outcome.figure} ({outcome.seconds} s)"
            )
            outcomes.append(outcome)
    if given.out:
        given.out.write_text(page(outcomes, revision()))
    return int(not all(o.caught for o in outcomes))


if __name__ == "__main__":
    raise SystemExit(main())
