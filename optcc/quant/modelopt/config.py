"""Our formats in modelopt's configuration language.

Sources: modelopt 0.47, `QuantizerAttributeConfig`. Its integer levels are those of ours as long as `narrow_range` is
false (its default): -128..127 with `step = amax / 127`. Its e4m3 is torch's, with `step = amax / 448`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from optcc.quant.modelopt.backend import BACKEND
from optcc.recipe.schemes import ActivationFormat, WeightFormat

Config = dict[str, Any]

_BITS: Mapping[str, int | tuple[int, int]] = {
    "int8": 8,
    "int4": 4,
    "int3": 3,
    "ternary": 2,
    "e4m3": (4, 3),
    "e2m1": (2, 1),
}
_NATIVE = ("int8", "int4", "int3", "e4m3")
_PLAIN_SCALES = ("float32", "float16", "bfloat16")


def is_native(form: WeightFormat) -> bool:
    """Whether modelopt itself rounds to this format on a CPU; our backend does it for the others.

    Two-level and power-of-two scales need its CUDA extension, zero points it doesn't have.
    """
    grouped_rows = form.rows > 1 and not form.group
    return form.type in _NATIVE and form.symmetric and form.scale in _PLAIN_SCALES and not grouped_rows


def weight_config(form: WeightFormat) -> Config:
    """Attributes of a weight quantizer: where scales are shared, and who rounds."""
    config: Config = {"num_bits": _BITS[form.type]}
    if form.rows == 0:
        config["axis"] = None
    elif form.rows == 1 and form.group:
        config["block_sizes"] = {-1: form.group}
    elif form.rows == 1:
        config["axis"] = 0
    elif is_native(form):
        config["block_sizes"] = {-1: form.group, -2: form.rows}
    if not is_native(form):
        config |= {"backend": BACKEND, "backend_extra_args": asdict(form)}
    return config


def static_config(form: ActivationFormat, histogram: bool = False) -> Config:
    """Attributes of an input quantizer with one scale for the whole tensor."""
    return {"num_bits": _BITS[form.type], "axis": None, "calibrator": "histogram" if histogram else "max"}


def quantize_config(weights: WeightFormat, inputs: Config | None, algorithm: Config | None) -> Config:
    """What `mtq.quantize` takes, for all linears of a view.

    Args:
        weights: format of the weights.
        inputs: attributes of the input quantizers; None leaves inputs alone.
        algorithm: method and its options; None only inserts quantizers.
    """
    entries: list[Config] = [
        {"quantizer_name": "*", "enable": False},
        {"quantizer_name": "*weight_quantizer", "cfg": weight_config(weights)},
    ]
    if inputs is not None:
        entries.append({"quantizer_name": "*input_quantizer", "cfg": inputs})
    return {"quant_cfg": entries, "algorithm": algorithm}
