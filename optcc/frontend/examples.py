"""What inputs a model came with: an example, and real data where its factory returns some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from optcc.frontend.program import ModelSource

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class KnownInputs:
    """Inputs by name.

    Attributes:
        example: what the model was captured with.
        data: batches by split (`calibration`, `check`); a split may be missing.
    """

    example: Batch
    data: Mapping[str, tuple[Batch, ...]] = field(default_factory=dict)


def known_inputs(source: ModelSource) -> KnownInputs | None:
    """The inputs that came with a factory or an exported program; None for a directory.

    Raises what `call_factory` and `load_program` raise.
    """
    if source.factory is not None:
        from optcc.frontend.factory import call_factory

        made = call_factory(source.factory)
        return KnownInputs(made.example, made.data)
    if source.program is not None:
        from optcc.frontend.exported import example_inputs, load_program

        return KnownInputs(example_inputs(load_program(source.program), str(source.program)))
    return None
