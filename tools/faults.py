"""Plants every fault of tests/faults and writes what caught it: benchmarks/results/faults-<date>.md.

`python -m tools.faults [--part faults|clean|seeds] [--only TEXT] [--recipe NAME] [--record FILE] [--out FILE]`. The
record is JSON lines; what is in it already is not run again, so that a long run may be stopped and continued.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from optcc.host import read_host
from tests.faults.bench import RECIPES, Bench
from tests.faults.catalogue import FAULTS
from tests.faults.clean import CLEAN, SEEDS, SUBTLE
from tests.faults.fault import Fault, Outcome
from tools.prove import ROOT, revision

PARTS = ("faults", "clean", "seeds")
Key = tuple[str, str, str, int]


@dataclass(frozen=True)
class Case:
    """One compile: of a part of the run, with a fault or without."""

    part: str
    fault: Fault | None
    model: str
    recipe: str
    seed: int = 0

    @property
    def name(self) -> str:
        """What a person chooses it by."""
        return f"{self.fault.place} {self.fault.name}" if self.fault else f"clean {self.model}"

    @property
    def key(self) -> Key:
        """What it is found by in a record."""
        return (self.fault.name if self.fault else "", self.model, self.recipe, self.seed)


def cases() -> Iterator[Case]:
    """The whole run, the faults first."""
    for recipe in RECIPES:
        for fault in FAULTS:
            if recipe in fault.recipes:
                yield Case("faults", fault, fault.model, recipe)
    for model, recipe, seed in dict.fromkeys(CLEAN):
        yield Case("clean", None, model, recipe, seed)
    for fault in FAULTS:
        if fault.name in SUBTLE:
            for seed in range(1, SEEDS):
                yield Case("seeds", fault, fault.model, "int4", seed)


def page(found: dict[Key, Outcome], commit: str) -> str:
    """The results as a page."""
    host = read_host(ROOT)
    places = {f.name: f.place for f in FAULTS}
    planted = [o for o in found.values() if o.fault and not o.seed]
    clean = [o for o in found.values() if not o.fault]
    caught = sum(o.caught for o in planted)
    names = {o.fault for o in planted}
    everywhere = {f for f in names if all(o.caught for o in planted if o.fault == f)}
    lines = [
        f"# Planted faults, {date.today()}",
        "",
        f"Commit {commit}; {host.cores} cores, {host.cpu}; {host.python}. Repeat with `python -m tools.faults`.",
        "",
        (
            f"- **Faults**: {len(names)} under {len({o.recipe for o in planted})} recipes, {len(planted)} compiles of "
            f"tiny models at the presets' own limits: {caught} fail as they should "
            f"({caught / max(1, len(planted)):.1%}). "
            f"{len(everywhere)} faults ({len(everywhere) / max(1, len(names)):.1%}) are caught under every recipe."
        ),
        (
            f"- **Clean compiles**: {len(clean)} over {len({o.model for o in clean})} architectures, "
            f"{len({o.recipe for o in clean})} recipes and {len({o.seed for o in clean})} seeds of weights: "
            f"{sum(o.caught for o in clean)} alarms."
        ),
    ]
    for name in SUBTLE:
        seeds = [o for o in found.values() if o.fault == name and o.recipe == "int4"]
        lines.append(
            f"- **{name}**, {len(seeds)} seeds of weights: caught in {sum(o.caught for o in seeds)}."
        )
    lines += [
        "",
        "| fault | strikes | model | recipe | caught by | figure |",
        "|---|---|---|---|---|---|",
    ]
    for o in planted:
        by = o.by if o.caught else f"**not caught** ({o.by})"
        lines.append(
            f"| {o.fault} | {places.get(o.fault, '')} | {o.model} | {o.recipe} | {by} | {_cell(o.figure)} |"
        )
    lines += [
        "",
        "Without a fault:",
        "",
        "| model | recipe | seed | verdict | figures |",
        "|---|---|---|---|---|",
    ]
    for o in clean:
        by = f"**{o.by}**" if o.caught else o.by
        lines.append(f"| {o.model} | {o.recipe} | {o.seed} | {by} | {_cell(o.figure)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "/")


def read(record: Path) -> dict[Key, Outcome]:
    """What a record holds; the last line counts."""
    lines = record.read_text().splitlines() if record.exists() else []
    outcomes = (Outcome(**json.loads(line)) for line in lines)
    return {(o.fault, o.model, o.recipe, o.seed): o for o in outcomes}


def main() -> int:
    """0 if every fault was caught and nothing else."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, help="one part of the run")
    parser.add_argument("--only", default="", help="part of a fault's place and name")
    parser.add_argument("--recipe", default="", help="one recipe of tests/faults/bench.py")
    parser.add_argument("--record", type=Path, help="JSON lines of what has been run")
    parser.add_argument("--folder", type=Path, help="where models and artifacts are kept")
    parser.add_argument("--out", type=Path, help="the page")
    given = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(given.folder or Path(scratch))
        record = given.record or Path(scratch) / "record.jsonl"
        known = read(record)
        bench.known.update({key[1:]: o for key, o in known.items() if not o.fault})
        for case in cases():
            part, recipe = given.part in (None, case.part), given.recipe in ("", case.recipe)
            if not (part and recipe and given.only in case.name):
                continue
            before = set(bench.known)
            outcome = known.get(case.key)
            if outcome is None:
                arguments = (case.recipe, case.seed)
                try:
                    outcome = (
                        bench.judge(case.fault, *arguments)
                        if case.fault
                        else bench.clean(case.model, *arguments)
                    )
                except Exception as error:  # the harness, not the product: the others still tell something
                    print(f"BROKEN {case.recipe:9} {case.name}: {error!r}", flush=True)
                    good = False
                    continue
                fresh = [bench.known[key] for key in set(bench.known) - before]
                with record.open("a") as file:
                    file.writelines(
                        json.dumps(asdict(o)) + "\n" for o in [*fresh, *([outcome] if case.fault else [])]
                    )
            right = outcome.caught == (case.fault is not None)
            good &= right
            mark = "good" if right else "WRONG"
            print(
                f"{mark} {case.recipe:9} {case.seed:2} {case.name}: {outcome.by}: {outcome.figure}",
                flush=True,
            )
        if given.out:
            given.out.write_text(page(read(record), revision()))
    return int(not good)


if __name__ == "__main__":
    raise SystemExit(main())
