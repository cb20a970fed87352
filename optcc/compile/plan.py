"""What will run: the recipe's stages as a pipeline, and what the backend adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from optcc.accuracy.gates import LINKS, METRICS, NARROW_STRUCTURE
from optcc.backends.protocol import Backend
from optcc.errors import OptccError, together
from optcc.pm.discover import build_pass
from optcc.pm.passes import Pass
from optcc.pm.pipeline import Pipeline
from optcc.pm.text import parse_pipeline
from optcc.quant.kv import KV_LIMITS, KvFormat, KvPass
from optcc.quant.weight_pass import PackingPass
from optcc.recipe import Recipe, Scheme


@dataclass(frozen=True)
class Default:
    """A limit that the recipe doesn't give itself, and whose it is."""

    value: float
    origin: str


@dataclass(frozen=True)
class Plan:
    """The passes of a compile.

    Attributes:
        stages: stage name to its passes, in order; `lower` holds the backend's own.
        dtype: what the program computes in.
    """

    stages: Mapping[str, tuple[Pass, ...]]
    dtype: str = "float32"

    @property
    def pipeline(self) -> Pipeline:
        """All passes in order."""
        return Pipeline(tuple(p for passes in self.stages.values() for p in passes))

    def stage_of(self, index: int) -> str:
        """The stage of the pass at this place in the pipeline."""
        for name, passes in self.stages.items():
            if index < len(passes):
                return name
            index -= len(passes)
        raise IndexError(index)

    def ends_stage(self, index: int) -> bool:
        """Whether the pass at this place is the last of its stage."""
        return index + 1 == len(self.pipeline) or self.stage_of(index + 1) != self.stage_of(index)

    @property
    def preflight_at(self) -> int:
        """How many passes run before preflight: canonicalize, and what stands before the first that packs weights.

        Such a pass (`quantize.rotate`) may add weights, and preflight must see all that will be packed.
        """
        packing = (i for i, p in enumerate(self.stages["quantize"]) if isinstance(p, PackingPass))
        return len(self.stages["canonicalize"]) + next(packing, 0)

    def schemes(self, base: Path) -> dict[str, Scheme]:
        """The schemes that weights are or may be packed in, by the name the recipe gives; in order.

        Raises UnknownScheme, RecipeSyntax, RecipeField, BadOption.
        """
        found: dict[str, Scheme] = {}
        for step in self.stages["quantize"]:
            if isinstance(step, PackingPass):
                found |= step.schemes(base)
        return found

    def kv(self) -> KvFormat | None:
        """What keys and values are cached as; None for the model's own type. Raises BadOption."""
        forms = [step.form() for step in self.stages["quantize"] if isinstance(step, KvPass)]
        return forms[-1] if forms else None

    def default_limits(self, base: Path) -> dict[str, Default]:
        """Limits of the schemes that can be measured here: on texts for a decoder, which is served, else on outputs.

        Where several limit one metric the loosest counts: it is what the coarsest of them alone may cost.
        """
        decoder = bool(self.stages.get("serve"))
        subject = "text" if decoder else "output"
        given = [(f"scheme {name}", scheme.limits) for name, scheme in self.schemes(base).items()]
        if form := self.kv():
            given.append((f"KV cache {form.type}", KV_LIMITS[form.type]))
        found = self._link_limits() if decoder else {}
        for origin, limits in given:
            for metric, value in limits.items():
                if METRICS[metric].subject != subject:
                    continue
                loosest = max if METRICS[metric].direction == "at-most" else min
                if metric not in found or loosest(value, found[metric].value) != found[metric].value:
                    found[metric] = Default(value, origin)
        return found

    def _link_limits(self) -> dict[str, Default]:
        """Limits of the steps from original to artifact, which every decoder is held to."""
        farthest = [p.farthest for p in self.stages["quantize"] if isinstance(p, PackingPass)]
        limits = {
            **LINKS,
            **({"weights": max(farthest)} if farthest else {}),
            **({"structure": NARROW_STRUCTURE} if self.dtype != "float32" else {}),
        }
        if self.lossy:
            limits = {name: value for name, value in limits.items() if name not in ("weights", "structure")}
        return {name: Default(value, "every decoder") for name, value in limits.items()}

    @property
    def lossy(self) -> tuple[Pass, ...]:
        """Passes that say that they change values, and not by storing them in a scheme.

        What they do can't be told from a mistake in the program or in a stored weight: these links have no limit.
        """
        return tuple(
            p for p in self.pipeline if p.contract.kind == "kl" and not isinstance(p, (PackingPass, KvPass))
        )

    def text(self) -> str:
        """The pipeline as text, one pass a line; it parses back."""
        return ",\n".join(str(p) for p in self.pipeline)


def make_plan(recipe: Recipe, backend: Backend, problems: list[OptccError] | None = None) -> Plan:
    """Build every pass.

    Args:
        recipe: resolved.
        backend: adds its own passes.
        problems: takes what is wrong with passes, which are then left out, instead of its being raised.

    Raises:
        UnknownPass, UnknownOption, BadOption: all there are, with file and line of the recipe.
    """
    wrong: list[OptccError] = []
    stages: dict[str, tuple[Pass, ...]] = {}
    for stage, entries in recipe.passes.items():
        built = []
        for e in entries:
            where = str(e.where) if e.where.file else None
            try:
                built.append(build_pass(e.ref, e.options, base=e.where.base, where=where))
            except OptccError as error:
                wrong.append(error)
        stages[stage] = tuple(built)
    if problems is not None:
        problems += wrong
    elif wrong:
        raise together(wrong)
    lower = parse_pipeline(backend.pipeline())
    return Plan({**stages, "lower": lower.passes}, recipe.model.dtype)
