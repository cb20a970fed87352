"""optcc itself, from this checkout and this Python: the two artifacts that a user would make."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.cpu.contestants import ROOT, Contestant, Entry, Place, Plan
from benchmarks.cpu.steps import Step

RECIPES = ("cpu-int8", "cpu-int4")


def plan(place: Place) -> Plan:
    """One artifact for every recipe; compiled anew when a source of optcc changed."""
    from optcc.backends.onnxruntime import native
    from optcc.compile.cache import source_digest

    facts = f"{source_digest()} {native.status()}"
    entries = []
    for recipe in RECIPES:
        out = place.folder("optcc") / recipe
        command = (
            sys.executable,
            "-m",
            "optcc",
            "compile",
            str(place.gguf),
            recipe,
            "-o",
            str(out),
            "--no-speed",
        )
        step = Step(recipe, command, out / "manifest.json", facts=facts, env={"PYTHONPATH": str(ROOT)})
        contestant = Contestant("optcc", recipe, Path(sys.executable), "benchmarks.cpu.peers.optcc", out)
        entries.append(Entry(contestant, (step,)))
    return Plan("optcc", (), tuple(entries))
