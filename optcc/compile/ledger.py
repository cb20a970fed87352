"""The ledger: every weight, what it was meant to be stored as, and the bytes that are there.

A compile that quantized less than it was told to has failed; it doesn't succeed with a larger file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from optcc.errors import LedgerMismatch
from optcc.ir.module import Json, Module
from optcc.pm.passes import Pass
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
class Ledger:
    """Totals by kind of storage, and the sum over all weights.

    Attributes:
        original_bytes: of all weights as the captured graph reads them.
        stored_bytes: of all tensors in the artifact.
        quantized: number of weights stored in a scheme.
        quantized_bytes: what they take, scales included.
        plain_bytes: everything else: norms, biases, tables.
    """

    original_bytes: int
    stored_bytes: int
    quantized: int
    quantized_bytes: int
    plain_bytes: int

    def to_json(self) -> dict[str, Json]:
        """Plain data."""
        return asdict(self)


def intent(selected: Selected, schemes: Collection[Scheme]) -> Intent:
    """What a scheme makes of a weight, in bytes; with several schemes, what each would."""
    choices = {scheme.name: scheme.weight.bytes(*selected.shape) for scheme in schemes}
    if len(choices) == 1:
        ((name, parts),) = choices.items()
        return Intent(selected.name, name, *parts)
    return Intent(selected.name, "", 0, 0, choices)


def intents(steps: Iterable[Pass], module: Module, base: Path) -> list[Intent]:
    """What the passes of the quantize stage will make of a canonical module.

    Raises what `PackingPass.select` raises.
    """
    found: list[Intent] = []
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


def balance(
    original_bytes: int, intents: Sequence[Intent], module: Module, stored: Mapping[str, int], path: Path
) -> Ledger:
    """Compare what was intended with what is in the artifact.

    Args:
        original_bytes: of all weights of the captured graph.
        intents: of every weight a quantization pass selected.
        module: the final module: its packed tensors are what must be stored.
        stored: bytes of each tensor in the artifact, by name.
        path: the weight file, for the message.

    Raises:
        LedgerMismatch: more or fewer bytes than the schemes say, or weights that were to be quantized and weren't.
    """
    if left := [i.name for i in intents if not i.scheme]:
        raise LedgerMismatch(
            f"{len(left)} weights ({', '.join(left[:3])}, …) were to be quantized, and no pass did",
            where=str(path),
        )
    wanted = sum(i.values + i.scales for i in intents)
    packed = {n for n in module.weights if any(part in n for part in _PARTS)}
    plain = sum(module.weights.nbytes(n) for n in module.weights if n not in packed)
    held = sum(module.weights.nbytes(n) for n in packed)
    if held != wanted:
        names = ", ".join(i.name for i in intents[:3])
        raise LedgerMismatch(
            f"{len(intents)} weights ({names}, …) should take {wanted} bytes by their schemes, the graph holds {held}",
            where=str(path),
        )
    total = sum(stored.values())
    # A backend may store a shape table or a constant of its own; anything larger is a weight that was kept twice.
    if total > wanted + plain + max(65536, plain // 4):
        raise LedgerMismatch(
            f"the artifact stores {total} bytes of weights where {wanted + plain} are accounted for",
            where=str(path),
            hint="a weight is stored twice, or unpacked",
        )
    return Ledger(original_bytes, total, len(intents), wanted, total - wanted)
