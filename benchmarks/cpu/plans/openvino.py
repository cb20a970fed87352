"""OpenVINO GenAI: models converted by optimum-intel and compressed by NNCF."""

from __future__ import annotations

from benchmarks.cpu.contestants import Contestant, Entry, Place, Plan, environment
from benchmarks.cpu.steps import Step

_FORMATS = {
    "int8": ("--weight-format", "int8"),
    "int4-g64": ("--weight-format", "int4", "--group-size", "64", "--ratio", "1.0"),
    "int4-g32": ("--weight-format", "int4", "--group-size", "32", "--ratio", "1.0"),
}


def plan(place: Place) -> Plan:
    """One conversion for every weight format; groups of 128, the default, don't divide this model's width of 576."""
    python = place.python("openvino")
    entries = []
    for variant, options in _FORMATS.items():
        out = place.folder("openvino") / variant
        program = str(python.with_name("optimum-cli"))
        source = ("-m", str(place.checkpoint), "--task", "text-generation-with-past")
        command = (program, "export", "openvino", *source, *options, str(out))
        step = Step(variant, command, out / "openvino_model.bin", env={"HF_HUB_OFFLINE": "1"})
        contestant = Contestant("openvino", variant, python, "benchmarks.cpu.peers.openvino", out)
        entries.append(Entry(contestant, (step,)))
    return Plan("openvino", environment(place, "openvino"), tuple(entries))
