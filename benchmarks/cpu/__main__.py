"""The command line: `compare` measures, `report` writes page and plot again from what was measured.

python -m benchmarks.cpu compare --peers openvino,llama.cpp,onnxruntime-genai --out benchmarks/results/cpu-DATE
python -m benchmarks.cpu report benchmarks/results/cpu-DATE.json
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks.cpu.compare import Comparison, facts
from benchmarks.cpu.contestants import Place
from benchmarks.cpu.inputs import Inputs
from benchmarks.cpu.plans import PLANS
from benchmarks.cpu.plot import draw
from benchmarks.cpu.prepare import prepare
from benchmarks.cpu.results import Results
from benchmarks.cpu.steps import SetUpFailed
from benchmarks.cpu.table import page
from benchmarks.cpu.workload import Workload


def main(arguments: list[str]) -> int:
    """Exit 0 when optcc and at least one peer were measured, 1 otherwise, 2 for bad arguments."""
    asked = _parser().parse_args(arguments)
    if asked.verb == "report":
        write_report(Results.read(asked.results), asked.results)
        return 0
    return _compare(asked)


def write_report(results: Results, path: Path) -> None:
    """The page and the plot beside `path`, a JSON file."""
    path.with_suffix(".md").write_text(page(results), encoding="utf-8")
    try:
        draw(results, results.threads()[0], path.with_suffix(".svg"))
    except ImportError:
        _tell("no plot: matplotlib is not installed (pip install matplotlib)")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu", description="optcc against other engines on a CPU."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("compare", help="set peers up and measure")
    known = [name for name in PLANS if name != "optcc"]
    run.add_argument(
        "--peers", default=",".join(known[:3]), help=f"of {', '.join(known)}; PEER/VARIANT for one format"
    )
    run.add_argument("--optcc", default="cpu-int8,cpu-int4", help="recipes of optcc to compare")
    run.add_argument("--model", type=Path, help="a GGUF file; SmolLM2-135M unless given")
    run.add_argument("--out", type=Path, required=True, help="writes OUT.json, OUT.md, OUT.svg")
    run.add_argument("--threads", default="1,2", help="thread counts")
    run.add_argument("--rounds", type=int, help="how often everything is measured")
    run.add_argument("--quick", action="store_true", help="one short round: shows that everything works")
    run.add_argument(
        "--setup-only", action="store_true", help="make environments and models, measure nothing"
    )
    again = verbs.add_parser("report", help="write page and plot again")
    again.add_argument("results", type=Path)
    return parser


def _compare(asked: argparse.Namespace) -> int:
    wanted = [
        *(f"optcc/{name}" for name in asked.optcc.split(",") if name),
        *(name for name in asked.peers.split(",") if name),
    ]
    peers = dict.fromkeys(name.partition("/")[0] for name in wanted)
    if unknown := [name for name in peers if name not in PLANS]:
        print(f"unknown peer {unknown[0]!r}; there are {', '.join(PLANS)}", file=sys.stderr)
        return 2
    workload = Workload.quick() if asked.quick else Workload()
    if asked.rounds:
        workload = Workload(**{**vars(workload), "rounds": asked.rounds})
    place = Place(Place.default_home(), (asked.model or _default_model()).resolve())
    out: Path = asked.out.with_name(asked.out.name + ".json")
    _tell(f"environments, models and logs: {place.home}")
    try:
        plans = [PLANS[peer](place) for peer in peers]
        contestants, unavailable = prepare(place, plans, lambda name: _matches(name, wanted), _tell)
    except SetUpFailed as error:
        print(error, file=sys.stderr)
        return 1
    if asked.setup_only:
        return 0
    inputs = Inputs.load(place.inputs)
    names = [contestant.name for contestant in contestants]
    results = Results(facts(place, inputs, workload), names, unavailable)
    threads = [int(text) for text in asked.threads.split(",")]
    comparison = Comparison(
        contestants,
        inputs,
        workload,
        threads,
        results,
        place.home / "logs",
        lambda: results.write(out),
        _tell,
    )
    comparison.run()
    if not results.visits:
        return 1
    write_report(results, out)
    return 0 if results.ours() and results.peers() else 1


def _matches(name: str, wanted: list[str]) -> bool:
    """A contestant is wanted by its own name or by its peer's."""
    return name in wanted or name.partition("/")[0] in wanted


def _default_model() -> Path:
    from tools.demo_models import model_path

    return model_path("smollm2")


def _tell(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
