"""Quantized linears of SmolLM2's shapes on one thread: ours, ONNX Runtime's MatMulNBits, and the machine's limits.

    python -m benchmarks.cpu.linear [--bits 4,8] [--rows 1,4,8,16,64,512] [--json FILE]

Both are timed in turns in one run. With few rows there are as many copies of a weight as fill 64 MB, so that weights
come from memory as they do in a model. Times are the best of several rounds: other work on the machine only adds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.cpu.limits import native_limits
from optcc.backends.onnxruntime import native
from optcc.backends.onnxruntime.native.packing import Canonical, Packing

SHAPES = ((576, 3072), (1536, 576), (576, 960), (576, 576), (576, 49152))
"""K and N: gate and up, down, qkv, attention's output, vocabulary."""
GROUP = 64
COLD = 64 << 20
FEW_ROWS = 16


@dataclass(frozen=True)
class Measured:
    """One shape at one number of rows; seconds of one product."""

    bits: int
    inputs: int
    outputs: int
    rows: int
    ours: float
    theirs: float

    @property
    def weight_bytes(self) -> float:
        """Weights and scales."""
        return self.inputs * self.outputs * (self.bits / 8 + 4 / GROUP)

    def line(self) -> str:
        """For a person."""
        products = self.rows * self.inputs * self.outputs
        return (
            f"w{self.bits} {self.inputs:>4} x {self.outputs:<5} {self.rows:>3} rows: "
            f"{self.ours * 1e6:9.1f} us {self.weight_bytes / self.ours / 1e9:5.1f} GB/s "
            f"{products / self.ours / 1e9:6.1f} GMAC/s | MatMulNBits {self.theirs * 1e6:9.1f} us "
            f"{products / self.theirs / 1e9:6.1f} GMAC/s | {self.theirs / self.ours:.2f}x"
        )


def measure(bits: int, inputs: int, outputs: int, rows: int) -> Measured:
    """Both kernels in turns."""
    rng = np.random.default_rng(0)
    packed = rng.integers(0, 256, (outputs, inputs * bits // 8), dtype=np.uint8)
    scale = rng.random((outputs, inputs // GROUP), dtype=np.float32) * 0.01
    copies = max(1, COLD // (packed.nbytes + scale.nbytes)) if rows <= FEW_ROWS else 1
    x = rng.standard_normal((rows, inputs)).astype(np.float32)
    sessions = [_ours(packed, scale, bits, copies), _theirs(packed, scale, bits, copies)]
    bound = [_bind(made, x) for made in sessions]
    best = [float("inf")] * 2
    rounds = max(4, min(50, int(2e9 / (rows * inputs * outputs * copies))))
    for _ in range(rounds):
        for index, (made, binding) in enumerate(zip(sessions, bound, strict=True)):
            start = time.perf_counter()
            made.run_with_iobinding(binding)
            best[index] = min(best[index], (time.perf_counter() - start) / copies)
    return Measured(bits, inputs, outputs, rows, *best)


def _bind(made: Any, x: npt.NDArray[np.float32]) -> Any:
    binding = made.io_binding()
    binding.bind_cpu_input("x", x)
    for output in made.get_outputs():
        binding.bind_output(output.name, "cpu")
    return binding


def _ours(packed: npt.NDArray[Any], scale: npt.NDArray[Any], bits: int, copies: int) -> Any:
    packing = Packing(len(packed), scale.shape[1] * GROUP, GROUP, bits, half=False, zeros=False)
    weights = {"table": packing.pack(Canonical(packed, scale))}
    attributes = packing.attributes() | {"quantize_input": 1}
    return _session("QuantizedLinear", native.DOMAIN, attributes, weights, copies)


def _theirs(packed: npt.NDArray[Any], scale: npt.NDArray[Any], bits: int, copies: int) -> Any:
    outputs, groups = scale.shape
    weights = {"packed": packed.reshape(outputs, groups, -1), "scale": scale}
    sizes = {"K": groups * GROUP, "N": outputs, "bits": bits, "block_size": GROUP, "accuracy_level": 4}
    return _session("MatMulNBits", "com.microsoft", sizes, weights, copies)


def _session(
    kind: str, domain: str, attributes: dict[str, Any], weights: dict[str, npt.NDArray[Any]], copies: int
) -> Any:
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    nodes, stored, outputs = [], [], []
    for copy in range(copies):
        names = [f"{name}{copy}" for name in weights]
        # Other bytes in each: ONNX Runtime keeps equal weights once.
        other = (np.roll(array, copy, 0) for array in weights.values())
        stored += [numpy_helper.from_array(a, n) for n, a in zip(names, other, strict=True)]
        nodes.append(helper.make_node(kind, ["x", *names], [f"y{copy}"], domain=domain, **attributes))
        outputs.append(helper.make_tensor_value_info(f"y{copy}", TensorProto.FLOAT, ["T", attributes["N"]]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", attributes["K"]])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(domain, 1)]
    graph = helper.make_graph(nodes, "g", [x], outputs, stored)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.register_custom_ops_library(str(native.library()))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--bits", default="4,8")
    parser.add_argument("--rows", default="1,4,8,16,64,512")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    machine = native_limits()
    print(f"{native.status()}; one core reads {machine['read_gb_s']} GB/s, {machine['products_g_s']} GMAC/s")
    found = []
    for bits in map(int, given.bits.split(",")):
        for inputs, outputs in SHAPES:
            for rows in map(int, given.rows.split(",")):
                found.append(measure(bits, inputs, outputs, rows))
                print(found[-1].line(), flush=True)
    if given.json:
        kept = {"isa": native.status().isa, "limits": machine, "group": GROUP}
        given.json.write_text(json.dumps(kept | {"linears": [asdict(m) for m in found]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
