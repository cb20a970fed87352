"""A decoder with fewer layers, cut out of a deeper one: what a capture of the shorter one gives, without a capture."""

from __future__ import annotations

import copy

from optcc.compile.stream import find_segments
from optcc.errors import NothingToBlame
from optcc.ir.module import Module


def first_layers(module: Module, keep: int) -> Module | None:
    """The first layers of a decoder, with its embedding before and its head behind them.

    Whatever reads the residual stream after the last layer reads it after layer `keep` instead. The names of nodes
    behind the cut stay those of the deeper model.

    Args:
        module: canonical; not changed.
        keep: how many layers; fewer than it has.

    Returns:
        None where the stream can't be followed, or layers are not all of the same number of parts.
    """
    decoder = module.attrs.get("decoder")
    if not isinstance(decoder, dict):
        return None
    layers = int(decoder["layers"])  # type: ignore[arg-type]
    found = module.clone()
    found.attrs = copy.deepcopy(module.attrs)
    try:
        _, *parts, _ = find_segments(found)
    except NothingToBlame:
        return None
    if not 0 < keep < layers or len(parts) % layers:
        return None
    parts[-1].end.replace_all_uses_with(parts[len(parts) // layers * keep - 1].end)
    found.attrs["decoder"] = {**decoder, "layers": keep}
    found.tidy()
    found.forget_erased()
    return found
