"""ONNX Runtime GenAI: models made by its own builder."""

from __future__ import annotations

from benchmarks.cpu.contestants import Contestant, Entry, Place, Plan, environment
from benchmarks.cpu.steps import Step


def plan(place: Place) -> Plan:
    """int4 in groups of 32, the builder's default."""
    peer = "onnxruntime-genai"
    python, out = place.python(peer), place.folder(peer) / "int4"
    places = ("-i", str(place.checkpoint), "-o", str(out), "-c", str(place.folder(peer) / "builder-cache"))
    command = (str(python), "-m", "onnxruntime_genai.models.builder", *places, "-p", "int4", "-e", "cpu")
    step = Step("int4", command, out / "model.onnx", env={"HF_HUB_OFFLINE": "1"})
    contestant = Contestant(peer, "int4", python, "benchmarks.cpu.peers.onnxruntime_genai", out)
    return Plan(peer, environment(place, peer), (Entry(contestant, (step,)),))
