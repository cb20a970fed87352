"""One file per peer: how its environment and its models are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.cpu.contestants import Place, Plan
from benchmarks.cpu.plans import llama_cpp, onnxruntime_genai, openvino, optcc, vllm

PLANS: Mapping[str, Callable[[Place], Plan]] = {
    "optcc": optcc.plan,
    "openvino": openvino.plan,
    "llama.cpp": llama_cpp.plan,
    "onnxruntime-genai": onnxruntime_genai.plan,
    "vllm": vllm.plan,
}
