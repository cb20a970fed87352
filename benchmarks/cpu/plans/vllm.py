"""vLLM's build for CPUs: the bfloat16 checkpoint, nothing to convert."""

from __future__ import annotations

from benchmarks.cpu.contestants import Contestant, Entry, Place, Plan, environment


def plan(place: Place) -> Plan:
    """Its own OpenMP library is loaded first, as its documentation asks."""
    python = place.python("vllm")
    env = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "HF_HUB_OFFLINE": "1",
        "VLLM_CACHE_ROOT": str(place.folder("vllm") / "compiled"),
        "LD_PRELOAD": str(python.parent.parent / "lib" / "libiomp5.so"),
    }
    contestant = Contestant("vllm", "bfloat16", python, "benchmarks.cpu.peers.vllm", place.bfloat16, env=env)
    return Plan("vllm", environment(place, "vllm"), (Entry(contestant, ()),))
