"""A compiled module as a Hugging Face checkpoint: config.json, safetensors, tokenizer.

What is written is read back before the directory gets its name: every packed value, scale and zero point must be what
the module holds, to the bit.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optcc.artifact.weights import TensorSource, write_safetensors
from optcc.errors import ExportRefused, OutputInTheWay
from optcc.export import compressed, modelopt
from optcc.export.readback import compare
from optcc.export.skeleton import Skeleton, skeleton
from optcc.export.stored import StoredWeight, plain_weights, stored_weights
from optcc.export.tensors import NAMES, OutTensor
from optcc.files import writing
from optcc.ir.module import Module
from optcc.ir.ops.quantized import PARTS

FORMATS = (compressed.NAME, modelopt.NAME)
VOCABULARIES = ("plain", "packed")
Json = dict[str, Any]
_CHANGED = {
    "add": "a constant is folded into it (Gemma's norms are 1 + weight), and the sum is rounded, so that the weight "
    "can't be had back to the bit",
    "transposed": "its layer is no linear but one with the weight transposed (GPT-2's Conv1D), of which no checkpoint "
    "format holds quantized weights",
}
"""What canonicalization calls a weight that it changed, after the weight's own name -> why that is no way back."""


@dataclass(frozen=True)
class Origin:
    """What a checkpoint has besides weights.

    Attributes:
        name: of the model, for messages.
        files: file name in the checkpoint -> where it lies now; `config.json` at least.
    """

    name: str
    files: Mapping[str, Path]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        directory: the checkpoint.
        format: of the quantized weights, or `plain` when there are none.
        schemes: spelling of a scheme in that format -> number of weights.
        plain: names of weights that the module holds quantized and the checkpoint as plain numbers of the same value.
        bytes: of the weight file.
        compared: packed weights that were read back and found equal.
    """

    directory: Path
    format: str
    schemes: Mapping[str, int]
    plain: tuple[str, ...]
    bytes: int
    compared: int

    def to_json(self) -> Json:
        """Plain data."""
        return {
            **vars(self),
            "directory": str(self.directory),
            "schemes": dict(self.schemes),
            "plain": list(self.plain),
        }


def export_hf(
    module: Module, origin: Origin, out: Path, *, format: str | None = None, vocabulary: str = "plain"
) -> Exported:
    """Write the checkpoint directory `out`.

    Args:
        module: compiled, at any stage after canonicalize; fused weights are taken apart.
        origin: configuration and tokenizer of the model it was compiled from.
        out: must not exist, or be empty.
        format: of FORMATS; None takes compressed-tensors, or modelopt's where that has no spelling.
        vocabulary: `plain` writes a quantized embedding or head as numbers of the same value, which every loader reads,
            and leaves what a head reads unrounded; `packed` keeps it packed, which compressed-tensors has a spelling
            for and few loaders read.

    Raises:
        ExportRefused: what can't be held, with the formats and schemes that are near.
        OutputInTheWay, CannotWrite.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputInTheWay("there is something already", where=str(out), hint="export to another directory")
    config: dict[str, Any] = json.loads(origin.files["config.json"].read_text("utf-8"))
    config.pop("quantization_config", None)
    quantized = {w.name: w for w in stored_weights(module)}
    plain = plain_weights(module)
    bones = skeleton(config, set(quantized) | set(plain))
    opened = {
        n for n, w in quantized.items() if vocabulary == "plain" and (w.embedding or n in bones.vocabulary)
    }
    _refuse_strangers(module, bones, quantized, plain)
    packed = [w for n, w in quantized.items() if n not in opened]
    chosen = _choose(module, packed, format)
    tensors = [t for w in packed for t in chosen.tensors(module, w)]
    tensors += _plain(module, bones, {n: quantized[n] for n in opened}, plain, _dtype(config))
    narrow = all(t.dtype != torch.float32 for t in tensors if t.name in bones.parameters)
    config |= {**bones.changes, "dtype": str(config.get("dtype", "float32")) if narrow else "float32"}
    config.pop("torch_dtype", None)
    ignore = [name for name in bones.linears if f"{name}.weight" not in {w.name for w in packed}]
    files = chosen.files(config, ignore)
    work = out.with_name(f".{out.name}.{os.getpid()}")
    with writing(work):
        try:
            work.mkdir(parents=True)
            size = _write(work, tensors, files, origin)
            compared = compare(work, module, packed)
            if out.exists():
                out.rmdir()
            work.rename(out)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    name = chosen.name if packed else "plain"
    return Exported(out, name, chosen.counts(), tuple(sorted(opened)), size, compared)


@dataclass(frozen=True)
class _Compressed:
    """compressed-tensors for one set of weights."""

    spelled: Mapping[str, compressed.Shape]
    tables: frozenset[str]
    name: str = compressed.NAME

    def tensors(self, module: Module, weight: StoredWeight) -> list[OutTensor]:
        return compressed.tensors(module, weight, self.spelled[weight.module])

    def files(self, config: Json, ignore: Sequence[str]) -> dict[str, Json]:
        if not self.spelled:
            return {"config.json": config}
        settings = compressed.configuration(self.spelled, ignore, self.tables)
        return {"config.json": config | {"quantization_config": settings}}

    def counts(self) -> dict[str, int]:
        names = [shape.format for shape in self.spelled.values()]
        return {name: names.count(name) for name in dict.fromkeys(names)}


@dataclass(frozen=True)
class _Modelopt:
    """modelopt's format for one set of weights."""

    spelled: Mapping[str, str]
    groups: Mapping[str, int]
    name: str = modelopt.NAME

    def tensors(self, module: Module, weight: StoredWeight) -> list[OutTensor]:
        return modelopt.tensors(module, weight, self.spelled[weight.module])

    def files(self, config: Json, ignore: Sequence[str]) -> dict[str, Json]:
        content = modelopt.configuration(self.spelled, self.groups, ignore)
        config = config | {"quantization_config": modelopt.embedded(content)}
        return {"config.json": config, "hf_quant_config.json": content}

    def counts(self) -> dict[str, int]:
        names = list(self.spelled.values())
        return {name: names.count(name) for name in dict.fromkeys(names)}


def _choose(module: Module, weights: Sequence[StoredWeight], wanted: str | None) -> _Compressed | _Modelopt:
    """The format that holds every weight. Raises ExportRefused."""
    shapes = {w.module: compressed.spell(w) for w in weights}
    problem = next(((w, why) for w in weights if isinstance(why := shapes[w.module], str)), None)
    inexact = next((name for w in weights if (name := compressed.inexact_scale(module, w))), None)
    algorithms = {w.module: modelopt.spell(w) for w in weights}
    strange = next((w for w in weights if algorithms[w.module] is None), None)
    if wanted != modelopt.NAME and not problem and not inexact:
        spelled = {n: s for n, s in shapes.items() if isinstance(s, compressed.Shape)}
        return _Compressed(spelled, frozenset(w.module for w in weights if w.embedding))
    if wanted != compressed.NAME and not strange and weights:
        return _Modelopt(
            {n: a for n, a in algorithms.items() if a}, {w.module: w.form.group for w in weights}
        )
    if wanted == modelopt.NAME:
        raise ExportRefused(
            f"modelopt's format has no spelling for {strange.label(module)}"
            if strange
            else "modelopt's format is for quantized weights, and there are none",
            where=strange.name if strange else None,
            hint=f"it has {', '.join(modelopt.WRITTEN)}; --format compressed-tensors holds more",
        )
    if problem:
        weight, why = problem
        raise ExportRefused(
            f"no checkpoint format holds {weight.label(module)}: {why}",
            where=weight.name,
            hint="quantize the model with the scheme that is near, or serve the artifact itself",
        )
    raise ExportRefused(
        f"compressed-tensors holds the reciprocal of {inexact}, from which it can't be had back exactly",
        hint="--format modelopt, or quantize the model with a recipe of optcc",
    )


def _refuse_strangers(
    module: Module,
    bones: Skeleton,
    quantized: Mapping[str, StoredWeight],
    plain: Mapping[str, tuple[str, slice | None]],
) -> None:
    """Nothing may be missing in the checkpoint, and the module may read nothing that it has no place for."""
    missing = [n for n in bones.parameters if n not in quantized and n not in plain and not bones.optional(n)]
    if missing:
        name = missing[0]
        now = next((n.removeprefix(f"{name}.") for n in module.weights if n.startswith(f"{name}.")), "")
        raise ExportRefused(
            f"{len(missing)} weights were changed into something else: {', '.join(missing[:3])}",
            where=name,
            hint=_CHANGED.get(now.partition(".")[0], "a pass folded it into another weight")
            + "; checkpoint formats hold the model's own weights",
        )
    parts = {f"{w.held}.{part}" for w in quantized.values() for part in PARTS}
    parts |= {w.rounding.scale for w in quantized.values() if w.rounding and w.rounding.scale}
    known = parts | set(bones.parameters) | set(bones.buffers)
    # Stacks of biases of which one was missing hold zeros without a name.
    strange = [n for n in plain if n and n not in known and n in module.weights and not _is_table(module, n)]
    if strange:
        raise ExportRefused(
            f"the graph reads {len(strange)} weights that the model hasn't: {', '.join(strange[:3])}",
            hint="a pass added them (a scale of activations, an order of channels, a rotation), so the same weights "
            "in the model's own code would compute something else",
        )


def _is_table(module: Module, name: str) -> bool:
    """Whether a weight is a constant of the graph: whole numbers, or a single one."""
    dtype, shape = module.weights.spec(name)
    return not dtype.is_floating_point or torch.Size(shape).numel() <= 1


def _dtype(config: Mapping[str, Any]) -> torch.dtype:
    found = getattr(torch, str(config.get("dtype", config.get("torch_dtype"))), torch.float32)
    return found if isinstance(found, torch.dtype) else torch.float32


def _plain(
    module: Module,
    bones: Skeleton,
    opened: Mapping[str, StoredWeight],
    plain: Mapping[str, tuple[str, slice | None]],
    wanted: torch.dtype,
) -> list[OutTensor]:
    """Weights that are written as plain numbers: in the model's own type where that is exact, else in float32."""
    out = []
    for name in bones.parameters:
        if name in opened:
            read = partial(opened[name].dequantized, module)
        elif name in plain:
            read = partial(_rows, module, *plain[name])
        else:
            continue
        value = read()
        exact = value.is_floating_point() and torch.equal(value.to(wanted).to(value.dtype), value)
        dtype = wanted if exact else value.dtype
        out.append(OutTensor(name, dtype, tuple(value.shape), partial(_as, read, dtype)))
    return out


def _rows(module: Module, held: str, rows: slice | None) -> Tensor:
    return module.weights[held] if rows is None else module.weights[held][rows]


def _as(read: Any, dtype: torch.dtype) -> Tensor:
    value: Tensor = read()
    return value.to(dtype)


def _write(work: Path, tensors: Sequence[OutTensor], files: Mapping[str, Json], origin: Origin) -> int:
    """Everything into `work`; returns the size of the weight file in bytes."""
    path = work / "model.safetensors"
    sources = [TensorSource(t.name, NAMES[t.dtype], t.shape, t.bytes) for t in tensors]
    write_safetensors(path, sources, {"format": "pt"})
    for name, content in files.items():
        (work / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    for name, source in origin.files.items():
        if name not in files and name != "config.json":
            shutil.copyfile(source, work / name)
    return path.stat().st_size
