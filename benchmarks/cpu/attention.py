"""PagedAttention alone against what the machine could do.

    python -m benchmarks.cpu.attention [--threads 1] [--kv int8] [--pages served] [--json FILE]
    python -m benchmarks.cpu.attention --table FILE...

A graph of attentions, each over its own part of the pools (SmolLM2-135M's heads unless told otherwise), runs as a
step would run it: 30 of them as in SmolLM2, or up to 240 where they are short. What ONNX Runtime takes to start a run
isn't counted: a graph with the same inputs and no attention runs before it. Before each run 128 MB or more are read
in order, which empties the caches as a layer's weights would, and says what the memory gives at that time: the most
of some reads before and after, for on a shared machine it goes up and down by half within minutes. Where the pools
are that large they are what is read: the same attention took 420 us in one process and 650 in another, perhaps by
where its memory lay. The other limit is that of products of matrices, of float32, or for int8 caches of int16, of
which a processor does half as many as of int8, measured once as a report's roofline does. A call's limit is the
slower of its bytes at the one and its products at the other, and `of limit` the median of that time by what the call
took, run by run. Pages lie as an engine's pool hands them out after it has served for a while, or in order, or
anywhere (`benchmarks.cpu.context`). Those anywhere take longer to read than memory in order; that rate is measured
too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FEWEST, MOST = 30, 240
"""Attentions that are measured together."""
BYTES_TOGETHER = 64 << 20
"""That they read, if they are not the fewest or the most."""
BLOCK = 16
AROUND = 5
"""Reads of memory before and after a run that say what it gave."""
ENOUGH = 128 << 20
"""Bytes that empty the caches."""


@dataclass(frozen=True)
class Row:
    """One measurement; microseconds of one attention."""

    mode: str
    kv: str
    batch: int
    context: int
    threads: int
    best_us: float
    median_us: float
    start_us: float
    """Median of what starting a run takes, which isn't part of the others."""
    bytes: int
    flops: int
    read_gb_s: float
    """Median of what memory gave."""
    of_limit: float


@dataclass(frozen=True)
class Heads:
    """Query heads, KV heads, channels."""

    query: int
    kv: int
    width: int


def layers_for(size: int) -> int:
    """How many attentions of so many bytes are measured together."""
    return max(FEWEST, min(MOST, BYTES_TOGETHER // size))


def graph(heads: Heads, kv: str, threads: int, layers: int = FEWEST, *, empty: bool = False) -> Any:
    """A session of so many attentions over one query, keys and values, or with their inputs alone."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    from optcc.backends.onnxruntime import native

    library = native.library()
    if library is None:
        sys.exit(f"native operators: {native.status()}")
    f32, i32 = TensorProto.FLOAT, TensorProto.INT32
    pool = {"float32": f32, "float16": TensorProto.FLOAT16, "int8": TensorProto.INT8}[kv]
    new = pool if kv == "int8" else f32
    row: list[str | int] = ["T", heads.kv, heads.width]
    page: list[str | int] = [layers, "N", BLOCK, heads.kv, heads.width]
    step: dict[str, tuple[int, list[str | int]]] = {
        "query": (f32, ["T", heads.query, heads.width]),
        "key": (new, row),
        "value": (new, row),
        "query_starts": (i32, ["S"]),
        "kv_lengths": (i32, ["R"]),
        "block_table": (i32, ["R", "M"]),
    }
    scales = ("key_scale", "value_scale") if kv == "int8" else ()
    step |= {name: (f32, [*row[:-1], 1]) for name in scales}
    pools = ["key_pool", "value_pool"]
    scale_pools = [f"{name}_pool" for name in scales]
    inputs, nodes = dict(step), []
    inputs |= dict.fromkeys(pools, (pool, page))
    inputs |= {name: (f32, [*page[:-1], 1]) for name in scale_pools}
    names = [
        "query",
        "key",
        "value",
        *pools,
        "query_starts",
        "kv_lengths",
        "block_table",
        *scales,
        *scale_pools,
    ]
    for layer in range(layers):
        # Each reads the one before, so they run one after another as layers do.
        names[0] = f"out_{layer - 1}" if layer else "query"
        nodes.append(
            helper.make_node(
                "PagedAttention", names, [f"out_{layer}"], domain=native.DOMAIN, scale=0.125, layer=layer
            )
        )
    outputs = [helper.make_tensor_value_info(f"out_{layers - 1}", f32, step["query"][1])]
    if empty:
        nodes = [helper.make_node("Identity", ["query"], [f"out_{layers - 1}"])]
    values = [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(native.DOMAIN, 1)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", values, outputs), opset_imports=opsets, ir_version=10
    )
    session = ort.SessionOptions()
    session.intra_op_num_threads = threads
    session.register_custom_ops_library(str(library))
    return ort.InferenceSession(model.SerializeToString(), session, providers=["CPUExecutionProvider"])


def step_of(
    heads: Heads, kv: str, batch: int, context: int, new: int, order: str, layers: int = FEWEST
) -> tuple[dict[str, Any], Any]:
    """Inputs: `batch` requests that add `new` tokens and have `context` then, on pages in that order. And all bytes of
    the pools, which lie behind each other.
    """
    import numpy as np

    from benchmarks.cpu.context import pages_of
    from optcc.backends.onnxruntime.executor import aligned

    rng = np.random.default_rng(0)
    pages = -(-context // BLOCK)
    table = pages_of(batch, pages, 0, order)
    tokens, blocks = batch * new, int(table.max()) + 1
    kind = {"float32": np.float32, "float16": np.float16, "int8": np.int8}[kv]
    made = np.int8 if kv == "int8" else np.float32

    def some(shape: tuple[int, ...], dtype: Any) -> Any:
        values = rng.standard_normal(shape, np.float32)
        return (values * 40).astype(np.int8) if dtype is np.int8 else values.astype(dtype)

    inputs = {
        "query": some((tokens, heads.query, heads.width), np.float32),
        "key": some((tokens, heads.kv, heads.width), made),
        "value": some((tokens, heads.kv, heads.width), made),
        "query_starts": np.arange(0, tokens + 1, new, dtype=np.int32),
        "kv_lengths": np.full(batch, context, np.int32),
        "block_table": table,
    }
    pools = {side: some((blocks, BLOCK, heads.kv, heads.width), kind) for side in ("key", "value")}
    if kv == "int8":
        scale = np.full((tokens, heads.kv, 1), 0.02, np.float32)
        inputs |= {"key_scale": scale, "value_scale": scale}
        one = np.full((blocks, BLOCK, heads.kv, 1), 0.02, np.float32)
        pools |= {"key_scale": one, "value_scale": one}
    room = aligned((layers * sum(pool.nbytes for pool in pools.values()),), np.uint8)
    end = 0
    for name, pool in pools.items():
        start, end = end, end + layers * pool.nbytes
        own = room[start:end].view(pool.dtype).reshape(layers, *pool.shape)
        own[...] = pool
        inputs[f"{name}_pool"] = own
    return inputs, room


class Memory:
    """Bytes that lie in order, more than caches hold; how fast they are read.

    Args:
        threads: that read.
        pools: what to read, if that is enough.
    """

    def __init__(self, threads: int, pools: Any) -> None:
        import torch

        torch.set_num_threads(threads)
        enough = pools.nbytes >= ENOUGH
        self._bytes = torch.from_numpy(pools.view("float32")) if enough else torch.ones(ENOUGH // 4)

    def rate(self) -> float:
        """Bytes a second, now."""
        start = time.perf_counter()
        self._bytes.sum()
        return self._bytes.nbytes / (time.perf_counter() - start)


def bound(session: Any, inputs: dict[str, Any]) -> Callable[[], float]:
    """Seconds of a run of a session over these inputs."""
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
    (output,) = session.get_outputs()
    binding.bind_output(output.name)

    def run() -> float:
        start = time.perf_counter()
        session.run_with_iobinding(binding)
        return time.perf_counter() - start

    return run


@dataclass(frozen=True)
class Runs:
    """Seconds of runs, of starting one, and bytes a second that memory gave around each run at most."""

    took: list[float]
    start: float
    rates: list[float]


def measure(run: Callable[[], float], empty: Callable[[], float], memory: Memory, seconds: float) -> Runs:
    """Runs, behind some without any work."""
    starts: list[float] = []
    took: list[float] = []
    rates: list[float] = []
    run()
    for _ in range(2 * AROUND + 1):
        memory.rate()
        starts.append(empty())
    run()
    memory.rate()
    end = time.perf_counter() + seconds
    while len(took) < AROUND or (time.perf_counter() < end and len(took) < 200):
        rates.append(memory.rate())
        took.append(run())
    around = [max(rates[max(0, i - AROUND) : i + AROUND + 1]) for i in range(len(took))]
    return Runs(took, statistics.median(starts), around)


def table(files: list[Path]) -> str:
    """Kept measurements as Markdown, a column for each file."""
    runs = [json.loads(path.read_text()) for path in files]
    rows = [[Row(**row) for row in run["rows"]] for run in runs]
    titles = [
        f"{own[0].kv}, {own[0].threads} thread{'s' * (own[0].threads > 1)}, {run['order']}"
        for own, run in zip(rows, runs, strict=True)
    ]
    lines = [
        "| | " + " | ".join(titles) + " |",
        "|---|" + "--:|" * len(runs),
        "| reads, GB/s | "
        + " | ".join(
            f"{min(r.read_gb_s for r in own):.0f} to {max(r.read_gb_s for r in own):.0f}" for own in rows
        )
        + " |",
        "| reads pages anywhere, GB/s | " + " | ".join(f"{run['pages'] / 1e9:.1f}" for run in runs) + " |",
        "| products, GFLOP/s | " + " | ".join(f"{run['flops'] / 1e9:.0f}" for run in runs) + " |",
    ]
    for same in zip(*rows):
        shares = (f"{r.median_us:.0f} µs, {100 * r.of_limit:.0f} %" for r in same)
        r = same[0]
        lines.append(f"| {r.mode}, batch {r.batch}, context {r.context} | " + " | ".join(shares) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print; with `--json FILE` keep the rows too."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported
    from benchmarks.cpu.context import ORDERS, SERVED

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kv", choices=["float32", "float16", "int8"], default="float32")
    parser.add_argument("--heads", default="9,3,64", help="query heads, KV heads, channels")
    parser.add_argument("--pages", choices=ORDERS, default=SERVED, help="where a request's pages lie")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row")
    parser.add_argument("--json", type=Path, help="where to keep the rows")
    parser.add_argument(
        "--table", type=Path, nargs="+", help="kept rows to print as Markdown; measures nothing"
    )
    args = parser.parse_args()
    if args.table:
        print(table(args.table))
        return
    from benchmarks.cpu.limits import native_limits
    from optcc.compile.roofline.limits import measure_limits
    from optcc.host import read_cpu

    heads = Heads(*(int(part) for part in args.heads.split(",")))
    machine = measure_limits(args.threads)
    arithmetic = 1e9 * (machine.int8_gops / 2 if args.kv == "int8" else machine.fp32_gops)
    value = {"float32": 4, "float16": 2, "int8": 1}[args.kv] * heads.width
    anywhere = 1e9 * native_limits(args.threads, BLOCK * heads.kv * value)["pieces_gb_s"]
    print(f"{args.threads} threads: pages anywhere {anywhere / 1e9:.1f} GB/s, {arithmetic / 1e9:.0f} GFLOP/s")
    sessions: dict[int, list[Any]] = {}
    value += 4 if args.kv == "int8" else 0  # a scale
    plans = [("decode", batch, context, 1) for batch in (1, 8, 16) for context in (128, 512, 2048)]
    plans += [("prefill", 1, 512, 512), ("prefill", 1, 2048, 512)]
    rows = []
    for mode, batch, context, new in plans:
        pairs = batch * sum(range(context - new + 1, context + 1))
        size = 2 * batch * context * heads.kv * value
        flops = 4 * pairs * heads.query * heads.width
        layers = layers_for(size)
        if layers not in sessions:
            sessions[layers] = [
                graph(heads, args.kv, args.threads, layers, empty=empty) for empty in (False, True)
            ]
        inputs, pools = step_of(heads, args.kv, batch, context, new, args.pages, layers)
        run, empty = (bound(session, inputs) for session in sessions[layers])
        runs = measure(run, empty, Memory(args.threads, pools), args.seconds)
        each = [(took - runs.start) / layers for took in runs.took]
        best, median = min(each), statistics.median(each)
        rows.append(
            Row(
                *(mode, args.kv, batch, context, args.threads, best * 1e6, median * 1e6),
                start_us=runs.start / layers * 1e6,
                bytes=size,
                flops=flops,
                read_gb_s=statistics.median(runs.rates) / 1e9,
                of_limit=statistics.median(
                    max(size / rate, flops / arithmetic) / own
                    for own, rate in zip(each, runs.rates, strict=True)
                ),
            )
        )
        r = rows[-1]
        print(
            f"{mode:8} batch {batch:2} context {context:4}: best {r.best_us:8.1f} us, median {r.median_us:8.1f} "
            f"({r.start_us:.1f} to start), "
            f"{size / median / 1e9:5.1f} of {r.read_gb_s:5.1f} GB/s, {flops / median / 1e9:6.1f} GFLOP/s, "
            f"{100 * r.of_limit:3.0f}% of limit"
        )
    if args.json:
        facts = {
            "machine": read_cpu(Path("/proc/cpuinfo"))[0],
            "order": args.pages,
            "pages": anywhere,
            "flops": arithmetic,
        }
        args.json.write_text(json.dumps({**facts, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
