"""transformers models without their weights, and weights found for them by name.

A model is built with its parameters on the meta device, so that building it costs no memory; buffers (rotary
frequencies) are real because their values are computed, not stored. Weights are then given to it as fake
tensors (for capture) or as memory-mapped ones (for the original that checks compare with).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from optcc.errors import CorruptWeights, UnsupportedArchitecture
from optcc.frontend.imports import defer_scipy
from optcc.frontend.program import Kind, LoadOptions, ModelSource, WeightSource
from optcc.frontend.refuse import refuse_config
from optcc.frontend.resolve import read_config
from optcc.frontend.safetensors import read_directory
from optcc.ir.weights import UNREAD

# Values that old versions of transformers stored and new ones compute.
_COMPUTED = re.compile(r"(rotary_emb\.inv_freq|\.attn\.bias|\.attention\.bias|\.masked_bias|\.position_ids)$")


def load_config(directory: Path, options: LoadOptions) -> Any:
    """The model's configuration, by transformers. Raises UnsupportedArchitecture if it can't be compiled."""
    import transformers

    path = directory / "config.json"
    raw = read_config(path)
    kind = raw.get("model_type")
    known = kind in transformers.CONFIG_MAPPING
    if not known and not (raw.get("auto_map") and options.trust_remote_code):
        hint = (
            "set model.trust_remote_code if you trust the code that comes with it"
            if raw.get("auto_map")
            else None
        )
        raise UnsupportedArchitecture(
            f"model_type {kind!r} is not known to transformers", where=str(path), hint=hint
        )
    try:
        config = transformers.AutoConfig.from_pretrained(
            directory, trust_remote_code=options.trust_remote_code and not known, local_files_only=True
        )
    except Exception as error:  # transformers raises what it likes on a wrong field
        raise CorruptWeights(f"the configuration is not valid ({error})", where=str(path)) from error
    refuse_config(config.to_dict(), where=str(path))
    if hasattr(config, "quantization_config"):
        # The model is built with plain linears; how its weights are stored is `optcc.frontend.quantized`'s matter.
        del config.quantization_config
    return config


def layer_count(source: ModelSource, options: LoadOptions) -> tuple[int, int]:
    """Layers of a decoder that the configuration asks for, 0 of anything else; and how many kinds of them it names."""
    assert source.directory is not None
    config = load_config(source.directory, options)
    if model_kind(config) != "decoder":
        return 0, 0
    return int(config.num_hidden_layers), max(1, len(set(getattr(config, "layer_types", None) or ())))


def shorten(config: Any, layers: int) -> None:
    """Leave only the first layers of a configuration."""
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = list(config.layer_types)[:layers]


def read_weights(source: ModelSource) -> dict[str, WeightSource]:
    """Every weight of a model directory by its stored name; those of a quantized checkpoint as `packed`.

    Raises what `read_directory` and `read_quantized` raise.
    """
    from optcc.frontend.quantized import read_quantized

    assert source.directory is not None
    return read_quantized(
        source, read_directory(source.directory), read_config(source.directory / "config.json")
    )


def model_kind(config: Any) -> Kind:
    """Decoder or encoder, by the class it was saved from. Raises UnsupportedArchitecture for others."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as masked

    names = list(config.architectures or ())
    if not names:
        return "function" if config.model_type in masked else "decoder"
    name = str(names[0])
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        return "decoder"
    if config.model_type in masked and name.endswith(("Model", "ForMaskedLM", "ForPreTraining")):
        return "function"
    raise UnsupportedArchitecture(
        f"{name} is neither a causal language model nor an encoder",
        hint="wrap it in a factory and give package.module:factory",
    )


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Inside, every parameter a module registers becomes a meta tensor; buffers stay real."""
    register: Callable[..., None] = nn.Module.register_parameter

    def on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and param.device.type != "meta":
            param = nn.Parameter(param.detach().to("meta"), requires_grad=param.requires_grad)
        register(self, name, param)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def build(config: Any, kind: Kind, attention: str, dtype: torch.dtype, options: LoadOptions) -> nn.Module:
    """The model with its parameters on the meta device, ties made, in evaluation mode.

    `config` is copied: transformers writes the attention implementation into the object it is given, and two
    models that share one would silently share that too.
    """
    defer_scipy()
    import transformers
    from transformers.initialization import no_init_weights

    auto = transformers.AutoModelForCausalLM if kind == "decoder" else transformers.AutoModel
    with _parameters_on_meta(), no_init_weights():
        model = auto.from_config(  # type: ignore[no-untyped-call]
            copy.deepcopy(config),
            attn_implementation=attention,
            dtype=dtype,
            trust_remote_code=options.trust_remote_code,
        )
    model.tie_weights()
    assert isinstance(model, nn.Module)
    return model.eval()


def model_names(model: nn.Module, stored: Mapping[str, WeightSource], where: str) -> dict[str, WeightSource]:
    """Stored tensors by the model's own names: transformers' renaming, and prefixes added or taken away.

    Raises UnsupportedArchitecture where a weight would have to be computed from several stored ones.
    """
    from transformers import core_model_loading as loading
    from transformers.conversion_mapping import get_model_conversion_mapping

    rules = get_model_conversion_mapping(model)  # type: ignore[arg-type]
    renamings = [rule for rule in rules if isinstance(rule, loading.WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, loading.WeightConverter)]
    known = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    prefix = getattr(model, "base_model_prefix", None)
    found: dict[str, WeightSource] = {}
    for name, source in stored.items():
        new, converted = loading.rename_source_key(name, renamings, converters, prefix, known)
        if converted is not None:
            raise UnsupportedArchitecture(f"weight {name} must be rearranged on loading", where=where)
        found[new] = source
    return found


def find_weights(
    model: nn.Module, stored: Mapping[str, WeightSource], kind: Kind, where: str
) -> dict[str, WeightSource]:
    """For every parameter and stored buffer of `model`, by name, the tensor to use; tied names share one.

    `stored` is by the model's names (`model_names`). Buffers that are not stored keep their computed value
    and are left out.

    Raises:
        CorruptWeights: a parameter is missing, has another shape, or (decoders) the files hold weights that
            the
            configuration has no place for: a model that ignores weights is not the model that was given.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers())
    found = {name: stored[name] for name in [*parameters, *buffers] if name in stored}
    _share_ties(parameters, found)
    # An encoder's pooler is not part of any output of optcc, and sentence encoders are often saved without
    # it.
    missing = sorted(n for n in parameters if n not in found and not (kind == "function" and "pooler." in n))
    everything = parameters | buffers
    wrong = sorted(
        f"{n} is {list(f.shape)}, expected {list(everything[n].shape)}"
        for n, f in found.items()
        if f.shape != tuple(everything[n].shape)
    )
    left = (
        sorted(n for n in stored if n not in everything and not _COMPUTED.search(n))
        if kind == "decoder"
        else []
    )
    for problem, names in (
        ("missing", missing),
        ("of another shape", wrong),
        ("not used by the configuration", left),
    ):
        if names:
            shown = "; ".join(names[:3]) + (" …" if len(names) > 3 else "")
            raise CorruptWeights(
                f"{len(names)} weights are {problem}: {shown}",
                where=where,
                hint="config.json and the weights don't belong together, or a file is missing",
            )
    return found


def declared_weights(model: nn.Module, config: Any) -> dict[str, WeightSource]:
    """Every parameter as if it were stored in the configuration's type: for a model of which no weight is there.

    Matrices can't be read; vectors are zeros.
    """
    kind = getattr(config, "dtype", None) or torch.float32
    found: dict[int, WeightSource] = {}
    result: dict[str, WeightSource] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        shape = tuple(parameter.shape)
        path = UNREAD if len(shape) > 1 else Path("/dev/zero")
        result[name] = found.setdefault(id(parameter), WeightSource(kind, shape, path=path))
    return result


def _share_ties(parameters: Mapping[str, nn.Parameter], found: dict[str, WeightSource]) -> None:
    """Give all names of one parameter the source of the first name that has one."""
    first: dict[int, WeightSource] = {}
    for name, parameter in parameters.items():
        if name in found:
            first.setdefault(id(parameter), found[name])
    for name, parameter in parameters.items():
        if id(parameter) in first:
            found[name] = first[id(parameter)]


def untie_different(model: nn.Module, stored: Mapping[str, WeightSource]) -> None:
    """Separate parameters that the configuration ties but that are stored with different values.

    transformers does the same: the files are right and the configuration is not.
    """
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    for names in groups.values():
        sources = {name: stored[name] for name in names if name in stored}
        kept = next(iter(sources), None)
        for name in list(sources)[1:]:
            assert kept is not None
            if not torch.equal(sources[kept].stored(), sources[name].stored()):
                owner, attribute = _owner(model, name)
                parameter = getattr(owner, attribute)
                setattr(owner, attribute, nn.Parameter(torch.empty_like(parameter), requires_grad=False))


def assign(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Put tensors in the place of the model's parameters and buffers, by name; equal tensors stay tied."""
    as_parameter: dict[int, nn.Parameter] = {}
    for name, value in values.items():
        owner, attribute = _owner(model, name)
        if attribute in owner._parameters:
            shared = as_parameter.setdefault(id(value), nn.Parameter(value, requires_grad=False))
            owner._parameters[attribute] = shared
        else:
            owner._buffers[attribute] = value


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, attribute = name.rpartition(".")
    return model.get_submodule(path), attribute
