"""Faster imports of transformers' models."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

_LOSSES = "transformers.loss"


def defer_scipy() -> None:
    """Import transformers' losses without scipy, which is then imported when one of them is computed.

    All models import all losses, and those of object detectors import `scipy.optimize` for one function: a second of
    every command. Does nothing where the losses are there already.
    """
    if f"{_LOSSES}.loss_utils" in sys.modules:
        return
    utils: Any = import_module("transformers.utils")
    known = utils.is_scipy_available
    utils.is_scipy_available = lambda: False
    try:
        import_module(f"{_LOSSES}.loss_utils")
    finally:
        utils.is_scipy_available = known
    for name, module in list(sys.modules.items()):
        if name.startswith(f"{_LOSSES}.") and hasattr(module, "is_scipy_available"):
            vars(module).update(is_scipy_available=known, linear_sum_assignment=_linear_sum_assignment)


def _linear_sum_assignment(*args: Any, **options: Any) -> Any:
    return import_module("scipy.optimize").linear_sum_assignment(*args, **options)
