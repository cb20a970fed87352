"""The ledger: every weight, what it was meant to be stored as, and the bytes that are there.

A compile that quantized less than it was told to has failed; it doesn't succeed with a larger file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import fx

from optcc.compile.rows import Row
from optcc.errors import LedgerMismatch
from optcc.ir.module import Json, Module
from optcc.ir.pattern import normalized
from optcc.pm.passes import Pass
from optcc.quant.kv import KvFormat
from optcc.quant.select import Selected
from optcc.quant.weight_pass import PackingPass
from optcc.recipe.schemes import Scheme

_PARTS = (".packed", ".scale", ".zero", ".tensor_scale")


@dataclass(frozen=True)
class Intent:
    """What a pass promised for one weight of the original.

    Attributes:
        name: the weight before quantization.
        scheme: how it is to be stored; empty while a pass that searches has not decided.
        values: bytes of its packed values.
        scales: bytes of its scales and zero points.
        choices: bytes of values and of scales by scheme, where the pass decides.
    """

    name: str
    scheme: str
    values: int
    scales: int
    choices: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def most_bytes(self) -> int:
        """What the weight takes; while nothing is decided, what it takes at most."""
        return max([self.values + self.scales, *(sum(parts) for parts in self.choices.values())])


@dataclass(frozen=True)
class SchemeBytes:
    """What is stored in one scheme.

    Attributes:
        scheme: its name.
        weights: how many weights of the original.
        values: bytes of their packed values.
        scales: bytes of their scales and zero points.
    """

    scheme: str
    weights: int
    values: int
    scales: int


@dataclass(frozen=True)
class KvBytes:
    """What the cache takes.

    Attributes:
        type: of a cached value.
        scale: type of the scales; empty when keys and values are not quantized.
        token_bytes: of one token over all layers, scales included.
        plain_token_bytes: the same in the type that attention computes in.
    """

    type: str
    scale: str
    token_bytes: int
    plain_token_bytes: int


@dataclass(frozen=True)
class Ledger:
    """Totals by kind of storage, and the sum over all weights.

    Attributes:
        original_bytes: of all weights as the captured graph reads them.
        stored_bytes: of all tensors in the artifact.
        quantized: number of weights stored in a scheme.
        quantized_bytes: what they take, scales included.
        plain_bytes: everything else: norms, biases, tables.
        schemes: the quantized weights by scheme, in the order the passes took them.
        kv: the cache of a decoder.
        rows: every weight.
    """

    original_bytes: int
    stored_bytes: int
    quantized: int
    quantized_bytes: int
    plain_bytes: int
    schemes: tuple[SchemeBytes, ...] = ()
    kv: KvBytes | None = None
    rows: tuple[Row, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """Plain data."""
        rows: list[Json] = [
            {**asdict(r), "shape": list(r.shape), "tensors": list(r.tensors)} for r in self.rows
        ]
        return {**asdict(self), "schemes": [asdict(s) for s in self.schemes], "rows": rows}


def intent(selected: Selected, schemes: Collection[Scheme]) -> Intent:
    """What a scheme makes of a weight, in bytes; with several schemes, what each would."""
    choices = {scheme.name: scheme.weight.bytes(*selected.shape) for scheme in schemes}
    if len(choices) == 1:
        ((name, parts),) = choices.items()
        return Intent(selected.name, name, *parts)
    return Intent(selected.name, "", 0, 0, choices)


def intents(steps: Iterable[Pass], module: Module, base: Path) -> list[Intent]:
    """What the passes of the quantize stage will make of a canonical module, and what its checkpoint has quantized.

    Raises what `PackingPass.select` raises.
    """
    found = _in_checkpoint(module)
    for step in steps:
        if isinstance(step, PackingPass):
            schemes, taken = step.schemes(base).values(), {i.name for i in found}
            found += [intent(s, schemes) for s in step.select(module, base, taken)]
    return found


def settle(intents: Sequence[Intent], module: Module) -> list[Intent]:
    """The intents with what the passes that have run decided, as the module's `schemes` say.

    Raises:
        LedgerMismatch: a pass took a scheme it was not offered.
    """
    record = module.attrs.get("schemes")
    decided = record if isinstance(record, dict) else {}
    return [_settled(i, decided.get(i.name)) if i.choices and not i.scheme else i for i in intents]


def _settled(intent: Intent, scheme: object) -> Intent:
    if scheme is None:
        return intent
    if not isinstance(scheme, str) or scheme not in intent.choices:
        raise LedgerMismatch(
            f"{intent.name} is stored as {scheme}, which is none of {', '.join(intent.choices)}"
        )
    values, scales = intent.choices[scheme]
    return replace(intent, scheme=scheme, values=values, scales=scales, choices={})


def _in_checkpoint(module: Module) -> list[Intent]:
    """The weights that were quantized before optcc met them; they stay as they are."""
    names = module.attrs.get("checkpoint", {})
    assert isinstance(names, dict)
    store = module.weights

    def size(name: str) -> int:
        return store.nbytes(name) if name in store else 0

    return [
        Intent(name, str(form), size(f"{name}.packed"), sum(size(f"{name}{part}") for part in _PARTS[1:]))
        for name, form in names.items()
        if f"{name}.packed" in store
    ]


def balance(
    original_bytes: int,
    intents: Sequence[Intent],
    module: Module,
    stored: Mapping[str, int],
    path: Path,
    kv: KvFormat | None = None,
    padding: int = 0,
) -> Ledger:
    """Compare what was promised with what is in the artifact.

    Args:
        original_bytes: of all weights of the captured graph.
        intents: of every weight a quantization pass selected.
        module: the final module: its packed tensors are what must be stored.
        stored: bytes of each tensor in the artifact, by name.
        path: the weight file, for the message.
        kv: what keys and values were to be cached as; None for the model's own type.
        padding: stored bytes that fill up a backend's lines or tiles.

    Raises:
        LedgerMismatch: more or fewer bytes than a scheme says, a cache of another type, or weights that were to be
            quantized and weren't.
    """
    if left := [i.name for i in intents if not i.scheme]:
        raise LedgerMismatch(
            f"{len(left)} weights ({', '.join(left[:3])}, …) were to be quantized, and no pass did",
            where=str(path),
        )
    schemes = by_scheme(intents)
    held = _held(module)
    for scheme in sorted({s.scheme for s in schemes} | held.keys()):
        wanted = sum(s.values + s.scales for s in schemes if s.scheme == scheme)
        if held.get(scheme, 0) != wanted:
            names = [i.name for i in intents if i.scheme == scheme]
            raise LedgerMismatch(
                f"{len(names)} weights ({', '.join(names[:3])}, …) should take {wanted} bytes as {scheme}, "
                f"the graph holds {held.get(scheme, 0)}",
                where=str(path),
            )
    cached = kv_bytes(module)
    _check_kv(kv, cached, path)
    quantized = sum(held.values())
    plain = module.weight_bytes() - quantized
    total = sum(stored.values())
    # A backend may store a shape table or a constant of its own; anything larger is a weight that was kept twice.
    if total > quantized + plain + padding + max(65536, plain // 4):
        raise LedgerMismatch(
            f"the artifact stores {total} bytes of weights where {quantized + plain} are accounted for",
            where=str(path),
            hint="a weight is stored twice, or unpacked",
        )
    return Ledger(original_bytes, total, len(intents), quantized, total - quantized, schemes, cached)


def by_scheme(weights: Iterable[Intent]) -> tuple[SchemeBytes, ...]:
    """Sums by scheme, in the order schemes come up."""
    found: dict[str, SchemeBytes] = {}
    for i in weights:
        row = found.get(i.scheme, SchemeBytes(i.scheme, 0, 0, 0))
        found[i.scheme] = SchemeBytes(i.scheme, row.weights + 1, row.values + i.values, row.scales + i.scales)
    return tuple(found.values())


def _held(module: Module) -> dict[str, int]:
    """Scheme -> bytes of the packed tensors that the module says are stored in it."""
    schemes = module.attrs.get("schemes", {})
    assert isinstance(schemes, dict)
    found: dict[str, int] = {}
    for name, scheme in schemes.items():
        parts = [name + part for part in _PARTS if name + part in module.weights]
        found[str(scheme)] = found.get(str(scheme), 0) + sum(map(module.weights.nbytes, parts))
    return found


def kv_bytes(module: Module) -> KvBytes | None:
    """What the pools of a served decoder hold, read from their types; None of a function."""
    paged = module.find(torch.ops.optcc.paged_attention.default)
    facts = module.attrs.get("kv")
    if not paged or not isinstance(facts, dict):
        return None
    token = plain = 0
    for node in paged:
        values = normalized(node)[0]
        computed = values[0].meta["val"].dtype.itemsize
        for pool in (*values[3:5], *values[14:16]):
            if pool is not None:
                token += _row(pool) * pool.meta["val"].dtype.itemsize
        plain += sum(_row(pool) * computed for pool in values[3:5])
    return KvBytes(str(facts["dtype"]), str(facts.get("scale", "")), token, plain)


def _row(pool: fx.Node) -> int:
    """Values of one token in a pool [N, K, G, c]."""
    heads, channels = pool.meta["val"].shape[-2:]
    return int(heads) * int(channels)


def _check_kv(wanted: KvFormat | None, found: KvBytes | None, path: Path) -> None:
    """Raise LedgerMismatch unless the pools are what was promised."""
    if wanted is None:
        return
    if found is None or (found.type, found.scale) != (wanted.type, wanted.scale):
        have = "no cache" if found is None else f"{found.type} {found.scale}".strip()
        raise LedgerMismatch(
            f"keys and values should be cached as {wanted}, the graph has {have}",
            where=str(path),
            hint="list `serve.paged-kv` after `quantize.kv`, and no pass between them that changes keys or values",
        )
