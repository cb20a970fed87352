"""Peak memory of a compile by stage, from types alone.

Weights are mapped from files and cost anonymous memory only while they are converted; the rest is the process itself,
one weight being worked on, and the logits of a window while the check compares. So anonymous memory grows with the
largest weight and the vocabulary, not with the model. Resident memory counts mapped pages too, which the kernel takes
back when others need them: the check maps the whole model and the whole artifact. docs/proof.md has the measurements
that the constants come from.
"""

from __future__ import annotations

import math

import torch
from torch import fx

from optcc.compile.plan import Plan
from optcc.compile.sketch import Sketch
from optcc.frontend import ModelSource
from optcc.frontend.tokenizer import has_tokenizer
from optcc.ir.module import Module
from optcc.ir.pattern import normalized
from optcc.memory import Peak, anonymous_bytes, release, resident_bytes
from optcc.quant.select import Selected
from optcc.quant.weight_pass import PackingPass
from optcc.recipe import Recipe
from optcc.runtime.executor import ModelSpec

_LINEAR = torch.ops.aten.linear.default
_PIECE = 1 << 22
"""Elements of a weight that are rounded together (`optcc.quant.rounding`)."""
_COPIES = 5
"""Of a piece in float32, while it is rounded."""
_RUNTIME = 160_000_000
"""Anonymous bytes of the runtime, its session and the original's modules, once both are open."""
_TEXTS = 145_000_000
"""Of a tokenizer, the texts it reads, and answers to prompts."""
_HELD = 2.75
"""Copies of such values: as computed, rounded, and widened again."""
_MOMENTS = 6
"""Matrices [K, K] of float32 while a weight is rounded by GPTQ."""
_WIDENED = 17_000_000
"""Of weights that the original is stored narrow and computes wide (`optcc.frontend.upcast`)."""
_GRAPHS = 70_000_000
"""Of the lowered graphs and the runtime that tries to open them."""
_LIBRARIES = 32_000_000
"""Mapped bytes of the runtime's libraries."""
_STEP_ROWS = 256
"""Rows of logits that the artifact computes at a time (`optcc.compile.gate`)."""
_LINK_ROWS = 328
"""Rows of logits that are held while links are measured (`optcc.compile.links`), three times."""
_LINK_BYTES = 36 << 20
"""Of them at most."""
_DEQUANTIZED = 4
"""Matrices in float32 while the interpreter multiplies by a stored weight: levels, steps, their product, and it."""
_ROWS = 1 << 21
"""Values that are dequantized at a time (`optcc.ir.ops.quantized`)."""


def predict_peaks(
    module: Module, drawn: Sketch, source: ModelSource, recipe: Recipe, plan: Plan
) -> tuple[dict[str, Peak], dict[str, str]]:
    """The highest memory of every stage that is still to come; the process is measured as it is now.

    Args:
        module: as preflight sees it.
        drawn: what will be made of it.
        source, recipe, plan: what is compiled.

    Returns:
        Peaks by stage, and what each is made of, for people.
    """
    release()
    base = anonymous_bytes()
    libraries = max(0, resident_bytes() - base)
    found = {"preflight": Peak(base + libraries, base)}

    how = {"preflight": f"the process as it is, {human(base)}"}

    def add(stage: str, told: str, anonymous: float, mapped: float = 0.0) -> None:
        how[stage] = f"the process {human(base)} + {told} {human(anonymous)}"
        found[stage] = Peak(int(base + libraries + anonymous + mapped), int(base + anonymous))

    packing = [step for step in plan.stages["quantize"] if isinstance(step, PackingPass)]
    taken = [(step, s) for step in packing for s in step.select(module, recipe.base)]
    if taken:
        largest = max(_rounding(s) for _, s in taken)
        learned = max((_learning(module, step, s, recipe) for step, s in taken if step.calibrates), default=0)
        texts = _texts(source) if learned else 0
        add(
            "quantize",
            "the largest weight in work, and data that passes learn from",
            max(largest, learned + texts),
        )
    stored = max(drawn.stored.values(), default=0)
    add("lower", "the graphs, and the largest stored tensor", stored + _GRAPHS, stored)
    if recipe.check.enabled:
        stored_files = sum(
            ref.dtype.itemsize * torch.Size(ref.shape).numel() for ref in module.weights.refs.values()
        )
        work = _RUNTIME + max(
            _comparing(drawn.module, module, source, recipe), _linking(drawn.module, source)
        )
        add(
            "check",
            "runtime, texts, and one window of both sides with its logits, or the largest weight widened",
            work,
            stored_files + drawn.weights_bytes + _LIBRARIES,
        )
    return found, how


def human(count: float) -> str:
    """Megabytes."""
    return f"{count / 1e6:.0f} MB"


def _rounding(item: Selected) -> float:
    """Anonymous bytes of rounding a weight: pieces of it, and the result."""
    count = item.shape[0] * item.shape[1]
    return count + _COPIES * 4 * min(count, _PIECE)


def _learning(module: Module, step: PackingPass, item: Selected, recipe: Recipe) -> int:
    """Anonymous bytes of what a pass holds that learns: values of all tokens up to what the weight reads
    (`optcc.quant.sweep`, which keeps no more than a pass's `memory` of them), and matrices of second moments."""
    width = item.shape[1]
    held = _HELD * recipe.calibrate.tokens * live_bytes(module, item)
    return int(min(held, getattr(step, "memory", math.inf) * 1e6)) + _MOMENTS * 4 * width * width


def live_bytes(module: Module, item: Selected) -> int:
    """Bytes per token of all values that are still needed when a linear is reached in the graph's order."""
    nodes = list(module.graph.nodes)
    place = {node: index for index, node in enumerate(nodes)}
    if not item.linears:
        return 0
    at = min(place[linear] for linear in item.linears)
    return sum(
        _row_bytes(node)
        for node in nodes[: at + 1]
        if node.op == "call_function" and max((place[u] for u in node.users), default=at) >= at
    )


def _row_bytes(node: fx.Node) -> int:
    """Of one token's row of a value; nothing of what doesn't grow with the tokens."""
    value = node.meta["val"]
    if not isinstance(value, torch.Tensor):
        return 0
    sizes: list[int | torch.SymInt] = list(value.shape)
    fixed = [d for d in sizes if isinstance(d, int)]
    return 0 if len(fixed) == len(sizes) else value.dtype.itemsize * math.prod(fixed)


def _texts(source: ModelSource) -> int:
    known = source.directory is not None and has_tokenizer(source.directory)
    return _TEXTS if known else 0


def _comparing(final: Module, module: Module, source: ModelSource, recipe: Recipe) -> int:
    """Anonymous bytes of comparing one window: its logits, a step of the artifact's, and what the original computes
    in a layer, where eager attention has three copies of all scores."""
    decoder, kv = final.attrs.get("decoder"), final.attrs.get("kv")
    if not isinstance(decoder, dict) or not isinstance(kv, dict):
        return 0
    vocab, heads, limit = (int(decoder[key]) for key in ("vocab", "heads", "max_context"))  # type: ignore[arg-type]
    rows = min(recipe.check.window, limit)
    widest = max(
        (int(n.meta["val"].shape[-1]) for n in module.find(_LINEAR) if int(n.meta["val"].shape[-1]) != vocab),
        default=0,
    )
    logits = vocab * (rows + min(rows, _STEP_ROWS))
    layer = 3 * heads * rows * rows + 3 * rows * widest
    narrow = any(ref.cast_to is not None and len(ref.shape) > 1 for ref in module.weights.refs.values())
    return 4 * (logits + layer) + _texts(source) + _WIDENED * narrow


def _linking(final: Module, source: ModelSource) -> int:
    """Anonymous bytes of measuring the links from original to artifact: logits of both sides, and the largest weight
    that the interpreter widens."""
    decoder = final.attrs.get("decoder")
    if not isinstance(decoder, dict):
        return 0
    logits = min(_LINK_BYTES, 4 * _LINK_ROWS * int(decoder["vocab"]))  # type: ignore[arg-type]
    return 3 * logits + _DEQUANTIZED * 4 * min(_largest(final), _ROWS) + _texts(source)


def _largest(final: Module) -> int:
    """Values of the largest weight that is stored quantized and multiplied by."""
    found = (normalized(node)[0] for node in final.find(torch.ops.optcc.quantized_linear.default))
    return max((int(v[1].meta["val"].shape[0]) * int(v[0].meta["val"].shape[-1]) for v in found), default=0)


def serving_bytes(drawn: Sketch, spec: ModelSpec) -> int:
    """Memory of a process that has the artifact open and has answered, without its cache."""
    return drawn.weights_bytes + 150_000_000 + 4 * spec.vocab * _STEP_ROWS
