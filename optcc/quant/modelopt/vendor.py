"""Importing nvidia-modelopt, and keeping it quiet."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from types import ModuleType

from optcc.errors import MissingPackage

INSTALL = "pip install 'optcc-compiler[modelopt]'"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing is printed inside: modelopt reports progress to standard output and bars to standard error, and warns at
    import of versions it wasn't tested with. What it skips is found by looking at its results, not at its warnings.
    """
    sink = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        warnings.simplefilter("ignore")
        yield


def load(wanted_by: str) -> ModuleType:
    """The module `modelopt.torch.quantization`.

    Raises:
        MissingPackage: it can't be imported; says what wants it and how it is installed.
    """
    try:
        with quiet():
            import modelopt.torch.quantization as mtq
    except ImportError as error:
        raise MissingPackage(
            f"{wanted_by} needs nvidia-modelopt ({error})",
            hint=f"install it: {INSTALL}; without it, use quantize.linear or quantize.gptq",
        ) from error
    module: ModuleType = mtq
    return module
