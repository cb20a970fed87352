"""Reports to draw: those of a decoder and of a function, made by hand, with everything that a report can hold."""

from __future__ import annotations

import copy
from typing import Any

import pytest


def estimate(value: float, half: float = 0.0) -> dict[str, Any]:
    """An estimate with a symmetric interval."""
    method = "t" if half else "exact"
    return {"value": value, "low": value - half, "high": value + half, "units": 4, "method": method}


def text(name: str, kl: float) -> dict[str, Any]:
    """One text of four windows."""
    return {
        "name": name,
        "digest": "ab" * 32,
        "tokens": 2048,
        "rows": 2044,
        "nonfinite": 0,
        "perplexity_original": 10.0,
        "perplexity_artifact": 10.5,
        "metrics": {
            "kl": estimate(kl, 0.01),
            "kl_p99": estimate(kl * 5, 0.05),
            "top1": estimate(0.87, 0.02),
            "nll": estimate(0.05, 0.01),
            "ppl_ratio": estimate(1.05, 0.01),
        },
        "windows": [{"rows": 511, "kl": kl + i / 100, "nll": 0.05, "top1": 0.87} for i in range(4)],
        "positions": [{"first": i, "last": i + 31, "kl": estimate(kl, 0.02)} for i in range(0, 512, 32)],
    }


def verdict(metric: str, limit: float, outcome: str, measured: dict[str, Any] | None) -> dict[str, Any]:
    """A limit on prose."""
    return {
        "subject": "prose",
        "metric": metric,
        "limit": limit,
        "direction": "at-least" if metric in ("top1", "cosine") else "at-most",
        "outcome": outcome,
        "measured": measured,
        "tokens_needed": 9000 if outcome == "undecided" else None,
        "reason": f"prose: {metric} {outcome}",
    }


SIDE = {kind: {"median": 10.0, "low": 9.0, "high": 11.0} for kind in ("prefill", "decode")}
DECODER: dict[str, Any] = {
    "version": 1,
    "date": "2026-01-02 03:04 UTC",
    "command": {"model": "a model.gguf", "recipe": "cpu-int4", "out": "build/x", "options": ["--no-speed"]},
    "model": "tiny",
    "recipe": "cpu-int4",
    "backend": "onnxruntime",
    "status": "ok",
    "passes": [
        {
            "step": "canonicalize.norm",
            "seconds": 0.2,
            "peak_bytes": 10**8,
            "changed": True,
            "nodes": 90,
            "weight_bytes": 4000,
            "hits": {"rms-norm": 5},
            "misses": [
                {"rule": "rms-norm", "node": "mul_3", "reason": "two users", "source": "m.py:3", "depth": 2}
            ],
            "notes": [],
            "tables": {},
            "cached": False,
        },
        {
            "step": "quantize.gptq{scheme=int4-g64-a8}",
            "seconds": 9.0,
            "peak_bytes": 10**8,
            "changed": True,
            "nodes": 100,
            "weight_bytes": 1000,
            "hits": {},
            "misses": [],
            "notes": ["5 weights"],
            "tables": {
                "weights": [
                    {"weight": f"model.layers.{i}.mlp.up_proj.weight", "error": 0.01 * (i + 1)} for i in range(5)
                ],
                "losses": [{"step": i, "loss": 1 / (i + 1)} for i in range(6)],
                "frontier": [
                    {"mixture": "all int8", "megabytes": 2.0, "kl": 0.01, "best": True, "chosen": True},
                    {"mixture": "all int4", "megabytes": 1.0, "kl": 0.2, "best": True, "chosen": False},
                ],
            },
            "cached": True,
        },
    ],
    "fusions": [{"kind": "ropes", "expected": 4, "found": 2, "reasons": ["no place looks like it"]}],
    "ledger": {
        "original_bytes": 4000,
        "stored_bytes": 1000,
        "quantized": 5,
        "quantized_bytes": 900,
        "plain_bytes": 100,
        "schemes": [{"scheme": "int4-g64-a8", "weights": 5, "values": 800, "scales": 100}],
        "kv": {"type": "int8", "scale": "float16", "token_bytes": 10, "plain_token_bytes": 40},
        "rows": [
            {
                "name": f"layers.{i}.mlp.up_proj", "scheme": "<int4>", "shape": [8, 4], "stored": "int4 g4",
                "tensors": [], "bytes": 10 * i, "error": 0.1 / (i + 1), "sqnr": 20.0, "steps": 0.3, "rows": 8,
                "remark": "",
            }
            for i in range(5)
        ],
    },
    "check": {
        "measurements": {
            "texts": [text("prose", 0.08), text("code", 0.11)],
            "total": text("total", 0.09),
            "greedy": {"matches": [[3, 24], [24, 24]], "identical": 1, "greedy": estimate(0.5, 0.2)},
            "original_seconds": 4.0,
            "artifact_seconds": 2.0,
        },
        "gate": {
            "status": "ok",
            "verdicts": [
                verdict("kl", 0.25, "pass", estimate(0.08, 0.01)),
                verdict("top1", 0.8, "pass", estimate(0.87, 0.02)),
            ],
        },
        "notes": [],
    },
    "speed": {
        "original": SIDE,
        "artifact": {k: {n: v * 3 for n, v in s.items()} for k, s in SIDE.items()},
        "ratio": {"prefill": 3.0, "decode": 3.0},
        "prompt_tokens": 32,
        "new_tokens": 16,
        "rounds": 3,
        "threads": 2,
    },
    "proof": [
        {"pass": "canonicalize.norm", "contract": "exact", "measured": 0.0, "bound": 0.0, "ok": True, "kl": 0.0},
        {"pass": "quantize.gptq", "contract": "kl", "measured": 0.3, "bound": 0.2, "ok": False, "kl": 0.3},
    ],
    "speed_limit": verdict("speed", 1.5, "pass", estimate(3.0, 0.2)) | {
        "subject": "decode, 4 requests", "direction": "at-least",
    },
    "roofline": {
        "machine": {"threads": 2, "read_gb_s": 18.0, "fp32_gops": 90.0, "int8_gops": 190.0, "measured": "today"},
        "steps": [
            {
                "name": name, "requests": 1, "tokens": 1, "before": 9, "limit_ms": 0.6, "measured_ms": 1.3,
                "share": 0.46, "unexplained_ms": 0.1,
            }
            for name in ("decode, 1 request", "decode, 16 requests")
        ],
        "rows": [
            {
                "load": load, "op": "linear", "name": f"linear {i}", "count": 3, "bytes": 1000 * i,
                "operations": 4000 * i, "bound": "memory", "limit_ms": 0.1 * i, "measured_ms": 0.2 * i, "share": 0.5,
            }
            for load in ("decode, 1 request", "decode, 16 requests")
            for i in range(1, 4)
        ],
        "fallbacks": [{"name": "lm_head", "kernel": "MatMulNBits", "reason": "no such width", "count": 1}],
        "sentences": ["three linears take all of it"],
    },
    "preflight": {
        "problems": [],
        "notes": [],
        "predicted": {
            "model": "tiny", "captured_bytes": 4000, "quantized": 5, "artifact_bytes": 1990,
            "peak": {"resident": 9 * 10**8, "anonymous": 10**8}, "peak_bytes": 9 * 10**8, "anonymous_bytes": 10**8,
            "stages": {"check": {"resident": 9 * 10**8, "anonymous": 10**8}}, "disk_bytes": 5000,
            "seconds": {"quantize": 8.0}, "estimated_seconds": 8.0, "how": {"check": "texts"}, "left_out": [],
            "context": {
                "token_bytes": 10, "limit": 128, "memory_bytes": 10**10, "serving_bytes": 10**9, "fits": 9 * 10**8,
                "block": 16, "longest": 128,
            },
        },
        "measured": {"artifact_bytes": 2000, "peak_bytes": 10**9, "anonymous_bytes": 10**8, "seconds": 9.0},
    },
    "memory": {"capture": {"resident": 10**8, "anonymous": 10**7}, "check": {"resident": 10**9, "anonymous": 10**8}},
    "stages": {"capture": 1.0, "quantize": 9.0, "plan": 0.01},
    "seconds": 12.0,
    "peak_bytes": 10**9,
    "anonymous_bytes": 10**8,
    "artifact_bytes": 2000,
    "source_bytes": 4000,
    "host": {
        "system": "Linux", "cpu": "A CPU", "cpu_flags": ["avx2"], "cores": 2, "memory": 10**10,
        "threads": 2, "versions": {"torch": "2.13"},
    },
    "digests": {"model": "11" * 32, "sources": "22" * 32, "artifact": "33" * 32},
}  # fmt: skip

ABSENT = ("proof", "roofline", "preflight", "memory", "speed_limit", "command", "date")
FUNCTION: dict[str, Any] = {
    **{
        k: v
        for k, v in DECODER.items()
        if k not in ("proof", "roofline", "preflight", "memory", "speed_limit", "command", "date")
    },
    "fusions": [],
    "passes": [],
    "speed": None,
    "ledger": {k: v for k, v in DECODER["ledger"].items() if k not in ("rows", "kv", "schemes")},
    "check": {
        "measurements": {
            "outputs": {"out": {"cosine": estimate(0.9995, 0.0001), "sqnr": estimate(30.0, 0.5)}},
            "inputs": 8,
            "original_seconds": 1.0,
            "artifact_seconds": 1.0,
        },
        "gate": {"status": "ok", "verdicts": [verdict("cosine", 0.99, "pass", estimate(0.9995, 0.0001))]},
        "notes": ["variations"],
    },
}


@pytest.fixture
def decoder() -> dict[str, Any]:
    """A report of a decoder, free to be changed."""
    return copy.deepcopy(DECODER)


@pytest.fixture
def function() -> dict[str, Any]:
    """A report of a function."""
    return copy.deepcopy(FUNCTION)


@pytest.fixture
def failed(decoder: dict[str, Any]) -> dict[str, Any]:
    """A decoder with a broken limit and an undecided one."""
    decoder["status"] = "failed"
    decoder["check"]["gate"] = {
        "status": "failed",
        "verdicts": [
            verdict("kl", 0.05, "fail", estimate(0.08, 0.01)),
            verdict("top1", 0.87, "undecided", estimate(0.87, 0.02)),
            verdict("greedy", 0.5, "undecided", None),
        ],
    }
    return decoder
