"""The original model, for comparison: transformers' own code with eager attention over memory-mapped
weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from optcc.errors import CorruptWeights
from optcc.frontend.model import (
    assign,
    build,
    find_weights,
    load_config,
    model_kind,
    model_names,
    read_weights,
    untie_different,
)
from optcc.frontend.program import LoadOptions, ModelSource, WeightSource
from optcc.frontend.quantized import mapped_original


def load_original(
    source: ModelSource, dtype: torch.dtype | None = None, options: LoadOptions | None = None
) -> nn.Module:
    """The model as its authors wrote it, in evaluation mode.

    Weights are mapped, not read: the call costs little memory whatever the model's size, unless `dtype`
        differs from
    the stored type, which copies them. `dtype` None keeps the stored type. Decoders answer as
    `AutoModelForCausalLM`, encoders as the wrapper that is captured (`input_ids`, `attention_mask` -> one
    tensor); a factory's module and an exported program are returned as they are. The original of a quantized checkpoint
    has its dequantized weights, which are kept in the cache, and doesn't round activations.

    Raises: as `capture` does.
    """
    options = options or LoadOptions()
    if source.factory is not None:
        from optcc.frontend.factory import call_factory

        return call_factory(source.factory).module
    if source.program is not None:
        from optcc.frontend.exported import Program, load_program

        return Program(load_program(source.program))
    assert source.directory is not None
    config = load_config(source.directory, options)
    kind = model_kind(config)
    stored = read_weights(source)
    wanted = dtype or _common_dtype(stored)
    model = build(config, kind, "eager", wanted, options)
    stored = model_names(model, stored, str(source.directory))
    untie_different(model, stored)
    found = find_weights(model, stored, kind, str(source.directory))
    mapped: dict[WeightSource, Tensor] = {}
    values: dict[str, Tensor] = {}
    for name, weight in found.items():
        if weight not in mapped:
            tensor = (mapped_original(weight) if weight.packed else weight).stored()
            mapped[weight] = tensor.to(wanted) if tensor.is_floating_point() else tensor
        values[name] = mapped[weight]
    assign(model, values)
    for name, parameter in model.named_parameters():
        if parameter.device.type == "meta":  # an encoder's pooler that wasn't saved; no output depends on it
            values[name] = torch.zeros(parameter.shape, dtype=wanted)
    assign(model, values)
    if kind == "function":
        from optcc.frontend.encoder import Encoder

        return Encoder(model, options.pooling, options.normalize).eval()
    return model


def _common_dtype(stored: Mapping[str, WeightSource]) -> torch.dtype:
    """The floating-point type most weights are stored in; float32 holds every dequantized value."""
    if any(weight.packed for weight in stored.values()):
        return torch.float32
    counts = Counter(weight.dtype for weight in stored.values() if weight.dtype.is_floating_point)
    if not counts:
        raise CorruptWeights("the files hold no floating-point weight")
    return counts.most_common(1)[0][0]
