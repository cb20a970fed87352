"""The Python interface: a model to a graph, passes under instruments, the graph as text, and its results.

python examples/python_api.py MODEL
"""

import sys

import torch

from optcc.frontend import capture, resolve
from optcc.frontend.lift import to_module
from optcc.ir.interpret import interpret
from optcc.ir.text import module_text
from optcc.pm import Context, parse_pipeline, run_pipeline
from optcc.pm.instruments import Check, Record


def main(reference: str, pipeline: str = "canonicalize.dead-code,quantize.linear{scheme=int8-g64}") -> None:
    """Capture, run a pipeline, print what it did, and compare the logits before and after."""
    module = to_module(capture(resolve(reference)))
    original = module.clone()

    record = Record()
    run_pipeline(module, parse_pipeline(pipeline), Context(), [record, Check()])
    for row in record.rows:
        print(f"{row.step}: {row.seconds:.2f} s, {row.nodes} operators, {row.weight_bytes} bytes", *row.notes)

    lines = module_text(module).splitlines()
    print("\n".join(line[:110] for line in lines[:12]), f"… {len(lines) - 12} lines more", sep="\n")

    ids = torch.arange(3, 19)  # one request of 16 tokens; logits of the last one
    step = {
        "input_ids": ids,
        "position_ids": torch.arange(len(ids)),
        "query_starts": torch.tensor([0, len(ids)], dtype=torch.int32),
        "logit_rows": torch.tensor([len(ids) - 1]),
    }
    before, after = (interpret(m, step)["logits"] for m in (original, module))
    print(f"largest logit {before.abs().max():.2f}, largest change {(after - before).abs().max():.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
