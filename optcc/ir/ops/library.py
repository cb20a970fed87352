"""How an operator is declared: one schema, one reference, one fake kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_LIBRARY = torch.library.Library("optcc", "FRAGMENT")


def define(schema: str, reference: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Register `optcc::<schema>`.

    Args:
        schema: torch schema text without the namespace, for example `silu(Tensor x) -> Tensor`.
        reference: plain torch implementation, used for every device.
        fake: the same signature on fake tensors; allocates the outputs' shapes and types, reads no data.
    """
    name = schema.split("(", 1)[0]
    _LIBRARY.define(schema)
    _LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(f"optcc::{name}", fake, lib=_LIBRARY)
