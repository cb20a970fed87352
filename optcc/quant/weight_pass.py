"""What all passes that pack weights have in common: which weights they are for, and in which schemes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from optcc.errors import BadOption, nearest
from optcc.ir.module import Module
from optcc.pm.contract import Contract, kl
from optcc.pm.passes import Pass
from optcc.quant.select import PARTS, Selected, select_weights
from optcc.recipe.schemes import Scheme, load_scheme


@dataclass(frozen=True)
class PackingPass(Pass):
    """A pass that stores weights in schemes, as preflight, the ledger and the limits know it before it has run.

    `moves` says why what it packs are other weights than those it found, if they are: the ledger can't compare them.
    """

    moves: ClassVar[str] = ""

    contract: ClassVar[Contract] = kl()

    def promise(self, base: Path) -> Contract:
        """The loosest limit of the schemes; none where one of them has none."""
        limits = [scheme.limits.get("kl") for scheme in self.schemes(base).values()]
        known = [limit for limit in limits if limit is not None]
        return kl(max(known)) if known and len(known) == len(limits) else kl()

    farthest: ClassVar[float] = 4.0
    """How many times the error of rounding to nearest a row or a group of its weights may have. What makes up for other
    weights' errors moves away from the original on purpose: up to 3 times with GPTQ on SmolLM2."""

    def schemes(self, base: Path) -> dict[str, Scheme]:
        """The schemes a weight may be stored in, by the name the recipe gives. With several, the pass decides.

        Raises UnknownScheme, RecipeSyntax, RecipeField.
        """
        raise TypeError(f"{type(self).__name__} does not define schemes()")

    def select(self, module: Module, base: Path, taken: Collection[str] = ()) -> list[Selected]:
        """The weights this pass packs.

        Args:
            module: canonical; not changed.
            base: directory of the recipe.
            taken: weights that an earlier pass of the pipeline will have packed by then.

        Raises:
            GroupSize, BadOption, UnknownScheme: as `select_weights` and `load_scheme`.
        """
        raise TypeError(f"{type(self).__name__} does not define select()")

    def note_schemes(self, module: Module, selected: Sequence[Selected], scheme: Scheme) -> None:
        """Write down in the module what the weights are stored as; backends' ledgers and exports read it."""
        if not selected:
            return
        record = module.attrs.setdefault("schemes", {})
        assert isinstance(record, dict)
        record.update({s.name: scheme.name for s in selected})


def check_part(part: str) -> None:
    """Raise BadOption unless it is of PARTS."""
    if part not in PARTS:
        raise BadOption(f"part: there is no part {part!r}", hint=nearest(part, list(PARTS)))


def check_not_negative(step: Pass, *options: str) -> None:
    """Raise BadOption if one of a pass's numbers is below 0."""
    for option in options:
        value = getattr(step, option.replace("-", "_"))
        if value < 0:
            raise BadOption(f"{option}: {step.id} needs 0 or more, found {value:g}")


@dataclass(frozen=True)
class WeightPass(PackingPass):
    """A pass that stores weights in one scheme.

    Several of them in a row share the work: each takes what it selects of the weights that are still plain.

    Options:
        scheme: a scheme's name, or a YAML file relative to the recipe.
        part: `all`, `body`, or `vocabulary`, which is the embedding and the head; `all` leaves the vocabulary out where
            the scheme's `embedding` is false.
        only: names of the weights to take, `*` allowed; empty for all.
        skip: names of weights to leave alone, `*` allowed.
    """

    scheme: str = "int8-g64-a8"
    part: str = "all"
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def load(self, base: Path) -> Scheme:
        """The scheme. Raises UnknownScheme, RecipeSyntax, RecipeField."""
        return load_scheme(self.scheme, base)

    def schemes(self, base: Path) -> dict[str, Scheme]:
        """The one scheme."""
        return {self.scheme: self.load(base)}

    def select(self, module: Module, base: Path, taken: Collection[str] = ()) -> list[Selected]:
        """As `PackingPass.select`.

        Raises:
            BadOption: also when the scheme wants static activations, and this pass calibrates nothing.
        """
        check_part(self.part)
        scheme = self.load(base)
        if scheme.activation and scheme.activation.static and not self.calibrates:
            raise BadOption(
                f"{self.id} rounds activations with scales of its own, {scheme.name} wants static ones",
                hint="use a pass that calibrates, or a scheme without `static`",
            )
        return select_weights(
            module, scheme, self.skip, only=self.only, part=self.part, taken=frozenset(taken)
        )

    def reads(self, base: Path) -> tuple[Path, ...]:
        """A scheme of the user's own."""
        path = base / self.scheme
        return (path,) if path.is_file() else ()
