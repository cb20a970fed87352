"""From a model to its graph. One call, `capture`, for decoders, encoders, factories and exported programs."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.export import ExportedProgram

from optcc.errors import AttentionCount, CorruptWeights, UnsupportedArchitecture
from optcc.frontend import attention, encoder, facts
from optcc.frontend.locate import capture_error
from optcc.frontend.model import (
    assign,
    build,
    declared_weights,
    find_weights,
    load_config,
    model_kind,
    model_names,
    read_weights,
    shorten,
    untie_different,
)
from optcc.frontend.program import CapturedProgram, DecoderSpec, Dim, LoadOptions, ModelSource, WeightSource
from optcc.frontend.tokenizer import special_tokens

_WRAPPER = "model."  # `_Step` and `Encoder` hold the user's model under this attribute
_DECODER_DIMS: dict[str, tuple[Dim, ...]] = {
    "input_ids": ("T",),
    "position_ids": ("T",),
    "query_starts": ("R+1",),
    "logit_rows": ("W",),
}


def capture(source: ModelSource, options: LoadOptions | None = None) -> CapturedProgram:
    """The model as a graph, with attention as one operator per layer and no weight in memory.

    Raises:
        UnsupportedArchitecture: refused by name.
        CorruptWeights: the files don't hold what the configuration needs.
        CaptureFailed: the operator and source line that could not be captured.
        AttentionCount: part of the attention didn't go through the interface.
        BadFactory: see `optcc.frontend.factory`.
    """
    options = options or LoadOptions()
    if source.factory is not None:
        from optcc.frontend.factory import capture_factory

        return capture_factory(source)
    if source.program is not None:
        from optcc.frontend.exported import capture_program

        return capture_program(source)
    assert source.directory is not None
    attention.register()
    config = load_config(source.directory, options)
    if source.layers:
        shorten(config, source.layers)
    if model_kind(config) == "decoder":
        return _capture_decoder(source, source.directory, config, options)
    return _capture_encoder(source, config, options)


class _Step(nn.Module):
    """A decoder over ragged tokens: all requests of a step laid end to end as one sequence of T tokens."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.slices_rows = "logits_to_keep" in inspect.signature(model.forward).parameters

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, query_starts: Tensor, logit_rows: Tensor
    ) -> Tensor:
        """i64[T], i64[T], i32[R+1], i64[W] -> [W,V]. The model's whole forward runs, so every tail is
        captured."""
        rows = {"logits_to_keep": logit_rows} if self.slices_rows else {}
        with attention.ragged_step(query_starts):
            logits: Tensor = self.model(
                input_ids=input_ids[None],
                position_ids=position_ids[None],
                attention_mask=None,
                use_cache=False,
                **rows,
            ).logits[0]
        return logits if self.slices_rows else logits[logit_rows]


def _capture_decoder(
    source: ModelSource, directory: Path, config: Any, options: LoadOptions
) -> CapturedProgram:
    model, found = _fake_model(source, config, "decoder", options)
    step = _Step(model)
    # Every size is at least 2 and no two are equal, so that torch.export neither fixes nor joins any of them.
    example = {
        "input_ids": torch.arange(1, 8),
        "position_ids": torch.tensor([0, 1, 2, 3, 0, 1, 2]),
        "query_starts": torch.tensor([0, 4, 7], dtype=torch.int32),
        "logit_rows": torch.tensor([1, 2, 3, 4, 6]),
    }
    exported = export(step, example, _DECODER_DIMS, source.name)
    calls = _attention_calls(exported, torch.ops.optcc.attention.default)
    layers = int(config.num_hidden_layers)
    _expect_attention(len(calls), layers, config)
    heads = {(q.meta["val"].shape[-2], *k.meta["val"].shape[-2:]) for q, k in calls}
    if len(heads) != 1:
        raise UnsupportedArchitecture(
            f"layers with different attention shapes: {sorted(heads)}", where=source.name
        )
    query_heads, kv_heads, head_dim = (int(extent) for extent in heads.pop())
    vocab = int(_output(exported).meta["val"].shape[-1])
    special = special_tokens(directory)
    spec = DecoderSpec(
        layers=layers,
        heads=query_heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=vocab,
        max_context=_max_context(config, options, directory),
        eos_token_ids=tuple(token for token in special.eos_token_ids if token < vocab),
        bos_token_id=special.bos_token_id,
        tied=model.get_input_embeddings().weight is model.get_output_embeddings().weight,
    )
    weights, placeholders = weights_of(exported, model, found)
    return CapturedProgram(
        exported,
        weights,
        placeholders,
        tuple(example),
        _DECODER_DIMS,
        ("logits",),
        "decoder",
        spec,
        source,
        facts.count(model, layers),
    )


def _capture_encoder(source: ModelSource, config: Any, options: LoadOptions) -> CapturedProgram:
    model, found = _fake_model(source, config, "function", options)
    dims: dict[str, tuple[Dim, ...]] = {"input_ids": ("B", "S"), "attention_mask": ("B", "S")}
    wrapped = encoder.Encoder(model, options.pooling, options.normalize)
    limits = {"S": encoder.max_tokens(model)}
    exported = export(wrapped, encoder.example_inputs(), dims, source.name, limits)
    calls = _attention_calls(exported, torch.ops.optcc.masked_attention.default)
    layers = int(config.num_hidden_layers)
    _expect_attention(len(calls), layers, config)
    weights, placeholders = weights_of(exported, model, found)
    output = "last_hidden_state" if options.pooling == "none" else "embeddings"
    return CapturedProgram(
        exported,
        weights,
        placeholders,
        tuple(dims),
        dims,
        (output,),
        "function",
        None,
        source,
        facts.count(model, layers),
        limits,
    )


def _fake_model(
    source: ModelSource, config: Any, kind: Any, options: LoadOptions
) -> tuple[Any, dict[str, WeightSource]]:
    """The model with fake parameters in the compute type, and where each of them is stored."""
    model = build(config, kind, attention.NAME, options.torch_dtype, options)
    if source.shape_only:
        found = declared_weights(model, config)
    else:
        stored = model_names(model, read_weights(source), str(source.directory))
        untie_different(model, stored)
        found = find_weights(model, stored, kind, str(source.directory))
    fakes: dict[int, Tensor] = {}
    values: dict[str, Tensor] = {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        for name, parameter in model.named_parameters(remove_duplicate=False):
            dtype = options.torch_dtype if parameter.is_floating_point() else parameter.dtype
            values[name] = fakes.setdefault(id(parameter), torch.empty(parameter.shape, dtype=dtype))
    assign(model, values)
    return model, found


def export(
    module: nn.Module,
    example: Mapping[str, Tensor],
    dims: Mapping[str, tuple[Dim, ...]],
    name: str,
    limits: Mapping[str, int] | None = None,
) -> ExportedProgram:
    """`torch.export` with named dimensions, at most as large as `limits` says; axes that are not named are
    fixed.

    Raises CaptureFailed with the operator and the model's own source line.
    """
    names = {dim for axes in dims.values() for dim in axes if isinstance(dim, str)}
    named = {
        dim: torch.export.Dim(dim.replace("+", "_plus_"), max=(limits or {}).get(dim))
        for dim in sorted(names)
    }
    shapes = {
        key: {axis: named[dim] for axis, dim in enumerate(axes) if isinstance(dim, str)}
        for key, axes in dims.items()
    }
    try:
        with torch.no_grad():
            exported = torch.export.export(module, (), dict(example), dynamic_shapes=shapes, strict=False)
    except Exception as error:
        raise capture_error(error, name) from error
    # transformers looks for packed sequences in position_ids; with ragged attention nothing uses the answer.
    exported.graph.eliminate_dead_code()
    exported.graph_module.recompile()
    return exported


def weights_of(
    exported: ExportedProgram, model: nn.Module, found: Mapping[str, WeightSource], prefix: str = _WRAPPER
) -> tuple[dict[str, WeightSource], dict[str, str]]:
    """The weights a graph reads, by name, and the name for each of its weight placeholders.

    Stored weights come from `found`; what is computed (buffers) or written in the code (constants) is held
    in memory. Names that are tied to an earlier one resolve to it.
    """
    buffers = dict(model.named_buffers(remove_duplicate=False))
    parameters = dict(model.named_parameters(remove_duplicate=False))
    users = {node.name: len(node.users) for node in exported.graph.nodes if node.op == "placeholder"}
    weights: dict[str, WeightSource] = {}
    placeholders: dict[str, str] = {}
    first: dict[int, str] = {}  # identity of a tensor -> the name it has in the model first
    for name, tensor in [*parameters.items(), *model.named_buffers(remove_duplicate=False)]:
        first.setdefault(id(tensor), name)
    for spec in exported.graph_signature.input_specs:
        if spec.target is None or not users.get(spec.arg.name):
            continue
        name = spec.target.removeprefix(prefix)
        value = parameters.get(name, buffers.get(name))
        name = name if value is None else first[id(value)]
        if name in found:
            assert value is not None
            weights[name] = _cast(found[name], value.dtype)
        else:
            value = exported.constants[spec.target] if value is None else value
            if not isinstance(value, Tensor) or isinstance(value, FakeTensor):
                raise CorruptWeights(f"weight {name} has no value")
            weights[name] = WeightSource(value.dtype, tuple(value.shape), value=value.detach())
        placeholders[spec.arg.name] = name
    return weights, placeholders


def _cast(source: WeightSource, dtype: torch.dtype) -> WeightSource:
    if source.dtype == dtype:
        return source
    return dataclasses.replace(source, cast_to=dtype)


def _attention_calls(exported: ExportedProgram, target: Callable[..., object]) -> list[tuple[Any, Any]]:
    """Query and key node of every attention operator."""
    return [(node.args[0], node.args[1]) for node in exported.graph.nodes if node.target is target]


def _expect_attention(found: int, layers: int, config: Any) -> None:
    if found != layers:
        raise AttentionCount(
            f"{config.model_type} has {layers} layers, the graph {found} attention operators",
            hint="part of the model computes attention without transformers' attention interface",
        )


def _output(exported: ExportedProgram) -> Any:
    results = exported.graph.output_node().args[0]
    assert isinstance(results, tuple | list)
    return results[0]


def _max_context(config: Any, options: LoadOptions, directory: Path) -> int:
    limit = next(
        (
            getattr(config, key, None)
            for key in ("max_position_embeddings", "n_positions")
            if getattr(config, key, None)
        ),
        None,
    )
    if limit is None and options.max_context is None:
        raise UnsupportedArchitecture(
            "the configuration doesn't say how long a text may be",
            where=str(directory),
            hint="set model.max_context",
        )
    if limit is None or options.max_context is None:
        return int(limit or options.max_context or 0)
    return min(int(limit), options.max_context)
