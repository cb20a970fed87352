"""llama.cpp, built from source for this processor (about 12 CPU minutes): the GGUF file itself, and requantized."""

from __future__ import annotations

from pathlib import Path

from benchmarks.cpu.contestants import Contestant, Entry, Place, Plan, environment
from benchmarks.cpu.steps import Step

_FTYPES = {"Q4_0": 2, "Q8_0": 7}
"""Numbers of `enum llama_ftype`."""
_REQUANTIZE = """
import sys, llama_cpp
options = llama_cpp.llama_model_quantize_default_params()
options.ftype, options.allow_requantize = int(sys.argv[3]), True
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), options))
"""
_OPTIONS = (
    "GGML_NATIVE=ON",
    "LLAVA_BUILD=OFF",
    "LLAMA_OPENSSL=OFF",
    "LLAMA_BUILD_UI=OFF",
    "LLAMA_USE_PREBUILT_UI=OFF",
)
_BUILD = {
    "CMAKE_ARGS": " ".join(f"-D{option}" for option in _OPTIONS),
    "CMAKE_BUILD_PARALLEL_LEVEL": "2",
}
_FROM_SOURCE = ("--force-reinstall", "--no-cache-dir", "--no-binary", "llama-cpp-python")
"""pip's cache would hand out a library that was built with other options, or on another machine."""


def plan(place: Place) -> Plan:
    """The source's own format stands beside the others: its weights are the original's, nothing was rounded again."""
    peer = "llama.cpp"
    python, folder = place.python(peer), place.folder(peer)
    build = Step(
        "build",
        (str(python), "-m", "pip", "install", "--no-deps", *_FROM_SOURCE, "llama-cpp-python==0.3.36"),
        python,
        env=_BUILD,
        hint="it needs a C++ compiler",
    )

    def entry(variant: str, model: Path, steps: tuple[Step, ...]) -> Entry:
        return Entry(Contestant(peer, variant, python, "benchmarks.cpu.peers.llama_cpp", model), steps)

    entries = [entry("Q4_1 (source)", place.gguf, ())]
    for variant, number in _FTYPES.items():
        out = folder / f"{variant}.gguf"
        command = (str(python), "-c", _REQUANTIZE, str(place.gguf), str(out), str(number))
        entries.append(entry(variant, out, (Step(variant, command, out),)))
    return Plan(peer, (*environment(place, peer), build), tuple(entries))
