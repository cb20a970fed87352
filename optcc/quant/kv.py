"""Keys and values in few bits: the format, how it stands in a canonical graph, and how a later pass finds it again.

Half precision as it is, or levels with one scale per token and KV head. A token's keys and values are rounded once,
from themselves alone, so it doesn't matter in which step they enter the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import fx

from optcc.errors import BadOption, nearest
from optcc.ir.builder import Builder
from optcc.ir.module import Module
from optcc.ir.pattern import normalized
from optcc.ir.rounding import round_dynamic
from optcc.pm.contract import Contract, kl
from optcc.pm.passes import Pass

HALF = "float16"
KV_TYPES = (HALF, "int8", "e4m3")
KV_SCALES = ("float32", "float16")
KV_LIMITS: Mapping[str, Mapping[str, float]] = {
    HALF: {"kl": 1e-4, "top1": 0.99},
    "int8": {"kl": 0.002, "top1": 0.97},
    "e4m3": {"kl": 0.01, "top1": 0.94},
}
"""Type -> what it may cost by itself, measured on texts; defaults for `check.limits`."""

_OPS = torch.ops.optcc
_CAST = torch.ops.aten._to_copy.default


@dataclass(frozen=True)
class KvFormat:
    """How keys and values are kept: number format of one value, and type of the scale of a token and head, if any."""

    type: str = "int8"
    scale: str = "float32"

    def __str__(self) -> str:
        return f"{self.type} with {self.scale} scales" if self.scale else self.type


@dataclass(frozen=True)
class KvPass(Pass):
    """A pass that decides how keys and values are cached.

    Options:
        type: number format of one value, `float16`, `int8` or `e4m3`.
        scale: type of the scales of `int8` and `e4m3`, `float32` or `float16`.
    """

    contract: ClassVar[Contract] = kl()

    type: str = "int8"
    scale: str = "float32"

    def form(self) -> KvFormat:
        """The format. Raises BadOption with the nearest name."""
        for option, value, known in (("type", self.type, KV_TYPES), ("scale", self.scale, KV_SCALES)):
            if value not in known:
                raise BadOption(
                    f"{self.id}: {option} {value!r} is none of {', '.join(known)}", hint=nearest(value, known)
                )
        return KvFormat(self.type, "" if self.type == HALF else self.scale)

    def promise(self, base: Path) -> Contract:
        """The limit of the type."""
        return kl(KV_LIMITS[self.form().type]["kl"])


@dataclass(frozen=True)
class PackedValue:
    """What `quantize_kv` made of a value.

    Attributes:
        cached: what a cache takes, [T,G,C]: levels, or plain values that are rounded when they are written.
        scale: of levels, [T,G,1].
        form: how it is kept.
    """

    cached: fx.Node
    scale: fx.Node | None
    form: KvFormat


def quantize_kv(build: Builder, value: fx.Node, form: KvFormat) -> fx.Node:
    """Keys or values [T,G,C] as they come back from a cache, before the place `build` stands at.

    `dequantize(quantize_activation(value))`, or a cast to float16 and back.
    """
    if form.type == HALF:
        narrow = build.call(_CAST, value, dtype=torch.float16)
        return build.call(_CAST, narrow, dtype=value.meta["val"].dtype)
    return round_dynamic(build, value, form.type, 0, form.scale)


def packed_kv(value: Any) -> PackedValue | None:
    """The packed form of keys or values that `quantize_kv` made; None of anything else."""
    if isinstance(value, fx.Node) and (source := halved(value)) is not None:
        return PackedValue(source, None, KvFormat(HALF, ""))
    if not isinstance(value, fx.Node) or value.target is not _OPS.dequantize.default:
        return None
    packed, scale, zero, whole, _, group, rows, _ = normalized(value)[0]
    pair = packed.args[0] if packed.op == "call_function" and packed.args else None
    if not isinstance(pair, fx.Node) or pair.target is not _OPS.quantize_activation.default:
        return None
    _, format, act_group, scale_format, _ = normalized(pair)[0]
    if (packed.args, scale.args) != ((pair, 0), (pair, 1)) or zero is not None or whole is not None:
        return None
    if (group, act_group, rows) != (0, 0, 1) or format not in KV_TYPES or scale_format not in KV_SCALES:
        return None
    return PackedValue(packed, scale, KvFormat(format, scale_format))


def halved(value: fx.Node) -> fx.Node | None:
    """The node that `value` is, rounded to float16; None if it is something else."""
    narrow = value.args[0] if value.target is _CAST else None
    if not isinstance(narrow, fx.Node) or narrow.target is not _CAST:
        return None
    source = narrow.args[0]
    assert isinstance(source, fx.Node)
    kinds = [node.meta["val"].dtype for node in (source, narrow, value)]
    wide = kinds[0]
    return source if wide != torch.float16 and kinds == [wide, torch.float16, wide] else None


def kv_attentions(module: Module) -> list[fx.Node]:
    """The attentions whose keys and values a cache will hold."""
    return module.find(_OPS.attention.default)
