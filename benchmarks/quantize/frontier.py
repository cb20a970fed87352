"""The frontier of size and KL divergence of one model: uniform schemes against searched mixtures, in one table.

    python -m benchmarks.quantize.frontier MODEL --out benchmarks/results/frontier-smollm2

Sensitivities are measured on calibration text; what the table shows is measured on check text, which shares no
document with it. Everything runs in the interpreter. Uniform rows use one scheme everywhere, or one for the body and
int8 for the vocabulary (`+ int8 vocabulary`), as other tools' presets do. Finished measurements are kept in the
folder `--keep`, so a run that was stopped goes on. Writes OUT.json and OUT.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optcc.accuracy.data import Split
from optcc.compile.calibrate import window_batch
from optcc.compile.original import Original
from optcc.compile.texts import decoder_texts, text_tools
from optcc.frontend import LoadOptions, ModelSource, capture, export_tokenizer, resolve
from optcc.frontend.lift import to_module
from optcc.host import host_facts
from optcc.ir.module import Module
from optcc.pm import Context, Pipeline, build_pass, run_pipeline
from optcc.quant.frontier import Frontier
from optcc.quant.mixture import Packer
from optcc.quant.select import Selected, select_weights
from optcc.quant.sensitivity import Trial, make_trial, measure_sensitivities, pick_batches
from optcc.quant.units import make_units
from optcc.recipe import CalibrateOptions, load_recipe, load_scheme

_VOCABULARY = "int8-g64-a8"
_LOAD = LoadOptions(dtype="float32")


def main() -> None:
    """Measure everything and write the table."""
    asked = _arguments()
    began = time.perf_counter()

    def tell(text: str, done: int, total: int) -> None:
        print(f"{time.perf_counter() - began:7.1f} s  {done}/{total} {text}", flush=True)

    torch.set_num_threads(asked.threads)
    asked.keep.mkdir(parents=True, exist_ok=True)
    source = resolve(asked.model, _LOAD)
    module = _canonical(source)
    packer = Packer(module, asked.keep / "packed", asked.search)

    def trial(tokens: int, split: Split) -> Trial:
        batches = _batches(source, CalibrateOptions(tuple(asked.data), tokens, asked.window), split)
        schemes = [load_scheme(name) for name in asked.schemes]
        picked = pick_batches(batches, tokens)
        return make_trial(module, picked, make_units(_selected(module)), schemes, packer)

    tell("captured", 1, 1)
    sensitivities = measure_sensitivities(
        trial(asked.tokens, "calibration"), asked.exact, asked.keep / "sensitivities.jsonl", tell
    )
    frontier = Frontier(
        trial(asked.check_tokens, "check"), sensitivities, asked.keep / "mixtures.jsonl", tell
    )
    rows = _rows(frontier)
    seconds = round(time.perf_counter() - began, 1)
    facts = {
        **vars(asked),
        "out": asked.out.name,
        "model": source.name,
        "seconds": seconds,
        "host": host_facts(),
    }
    del facts["keep"]
    _write(asked.out, rows, facts)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--keep", type=Path, default=Path("frontier-keep"))
    parser.add_argument(
        "--schemes", nargs="+", default=["int3-g64-asym", "int4-g64-a8", "int4-g32-a8", "int8-g64-a8"]
    )
    parser.add_argument("--data", nargs="+", default=["prose", "code"])
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--check-tokens", type=int, default=2048)
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--search", type=int, default=0)
    parser.add_argument("--exact", action="store_true", help="measure every scheme of every unit")
    return parser.parse_args()


def _canonical(source: ModelSource) -> Module:
    module = to_module(capture(source, _LOAD))
    steps = load_recipe("cpu-fp32").passes["canonicalize"]
    run_pipeline(module, Pipeline(tuple(build_pass(s.ref, s.options) for s in steps)), Context())
    return module


def _selected(module: Module) -> list[Selected]:
    scheme = load_scheme(_VOCABULARY)
    return [s for part in ("body", "vocabulary") for s in select_weights(module, scheme, part=part)]


def _batches(source: ModelSource, options: CalibrateOptions, split: Split) -> list[dict[str, Tensor]]:
    with tempfile.TemporaryDirectory() as folder:
        export_tokenizer(source, Path(folder) / "tokenizer")
        tools = text_tools(Path(folder))
    if tools is None:
        raise SystemExit("the model has no tokenizer")
    sets = decoder_texts(
        tools, options, options.window, split, source.digest, lambda: Original(source, _LOAD), None
    )
    return [window_batch(torch.from_numpy(w)) for s in sets for w in s.windows]


def _rows(frontier: Frontier) -> list[dict[str, Any]]:
    """Uniform schemes, and at the size of each the searched mixture of least modelled KL."""
    units, names = frontier.trial.units, frontier.names
    uniform = frontier.uniform()
    for place, name in enumerate(names):
        if name != _VOCABULARY:
            picks = [names.index(_VOCABULARY) if u.embeds else place for u in units]
            uniform.append(frontier.measure(f"{name} + int8 vocabulary", picks))
    for point in uniform:
        frontier.under_bytes(point.bytes, f"searched, at most {point.bytes / 1e6:.1f} MB")
    points = sorted(frontier.points.values(), key=lambda p: (p.bytes, p.kl))
    return [
        {
            "mixture": point.label,
            "megabytes": round(point.bytes / 1e6, 3),
            "kl": point.kl,
            "error": point.error,
            "kl by sum": point.modelled,
            "best": frontier.is_best(point),
            "shares": frontier.shares(point),
        }
        for point in points
    ]


def _write(out: Path, rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps({"facts": facts, "rows": rows}, indent=1) + "\n")
    names = list(rows[0]["shares"])
    texts, measured = ", ".join(facts["data"]), "every scheme" if facts["exact"] else "one scheme"
    lines = [
        f"# Size and KL of {facts['model']}: uniform schemes and searched mixtures",
        "",
        f"KL in nats per token on {facts['check_tokens']} tokens of check text ({texts}; every second token counts),",
        f"with its standard error. Sensitivities: {facts['tokens']} tokens of calibration text, {measured} of",
        "every unit measured. All weights are rounded to nearest. `by sum` is what the sensitivities add up to.",
        "Marked rows: no other is as small and as near.",
        "",
        "| mixture | MB | KL | ± | by sum | best | " + " | ".join(names) + " |",
        "|---|---|---|---|---|---|" + "---|" * len(names),
    ]
    for row in rows:
        shares = " | ".join(f"{row['shares'][name]:.0%}" for name in names)
        numbers = f"{row['megabytes']:.1f} | {row['kl']:.4f} | {row['error']:.4f} | {row['kl by sum']:.4f}"
        lines.append(f"| {row['mixture']} | {numbers} | {'✓' if row['best'] else ''} | {shares} |")
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
