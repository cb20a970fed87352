"""The compiled ONNX Runtime operators, where they could be built.

Installing optcc compiles the C++ below `src/` (hatch_build.py, build.py). Where that wasn't possible the package is
installed all the same, graphs are lowered to ONNX Runtime's own operators, and `status()` says why. Environment:

    OPTCC_NATIVE=off   as if they had not been built
    OPTCC_ISA          portable, avx2, avx2-vnni or avx512 instead of the best one this machine has
"""

from __future__ import annotations

import ctypes
import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from optcc.backends.onnxruntime.native.build import LIBRARY, RECORD

DOMAIN = "optcc"
"""Of the operators, in ONNX graphs."""
INSTALL = "install a C++ compiler and reinstall optcc"


@dataclass(frozen=True)
class Status:
    """Whether there are native operators here.

    Attributes:
        reason: why not; empty when there are.
        compiler: what built them, or tried to.
        isa: the instruction set in use; empty when OPTCC_ISA asks for one that can't be used.
        usable: all that could be.
    """

    reason: str
    compiler: str = ""
    isa: str = ""
    usable: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether they can be used."""
        return not self.reason

    def __str__(self) -> str:
        """One line for a user."""
        if self.reason:
            return f"not used: {self.reason}"
        return f"built with {self.compiler}, uses {self.isa.replace('avx512', 'avx512 (vnni)')}"


def library() -> Path | None:
    """The file for `SessionOptions.register_custom_ops_library`; None when it can't be used, `status()` says why."""
    return None if _reason() else _folder() / LIBRARY


def status() -> Status:
    """What is here, by asking the library."""
    reason, compiler = _reason(), _record().get("compiler", "")
    if reason:
        return Status(reason, compiler)
    try:
        native = _load(str(_folder() / LIBRARY))
    except OSError as error:
        return Status(f"it can't be loaded: {error}", compiler)
    isa, usable = native.optcc_isa().decode(), _usable(native)
    if not isa:
        wish = os.environ.get("OPTCC_ISA", "")
        return Status(f"OPTCC_ISA={wish}, but usable here: {', '.join(usable)}", compiler, "", usable)
    return Status("", compiler, isa, usable)


def choose_isa(name: str) -> None:
    """Let sessions made from now on use this instruction set; an empty name means the best one.

    Raises:
        ValueError: it can't be used here, or there are no native operators.
    """
    if reason := _reason():
        raise ValueError(reason)
    refused = _load(str(_folder() / LIBRARY)).optcc_choose_isa(name.encode())
    if refused:
        raise ValueError(f"{name}: {refused.decode()}")


def _folder() -> Path:
    return Path(__file__).parent


def _reason() -> str:
    """Why there is nothing to load."""
    if os.environ.get("OPTCC_NATIVE") == "off":
        return "switched off by OPTCC_NATIVE=off"
    if (_folder() / LIBRARY).is_file():
        return ""
    reason = _record().get("reason", "")
    return reason or "not built; run `pip install -e .`, or `python -m tools.build_native` in a checkout"


def _record() -> dict[str, str]:
    """build.json, empty when there is none."""
    try:
        found: dict[str, str] = json.loads((_folder() / RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return found


def load() -> ctypes.CDLL | None:
    """The library for ctypes; None when it can't be used. Every step asks: no file is looked at twice."""
    if _loaded and os.environ.get("OPTCC_NATIVE") != "off":
        return _loaded[0]
    path = library()
    if path is None:
        return None
    _loaded.append(_load(str(path)))
    return _loaded[0]


_loaded: list[ctypes.CDLL] = []


@cache
def _load(path: str) -> ctypes.CDLL:
    native = ctypes.CDLL(path)
    native.optcc_isa.restype = native.optcc_isa_at.restype = native.optcc_choose_isa.restype = ctypes.c_char_p
    native.optcc_isa_at.argtypes = [ctypes.c_int, ctypes.POINTER(ctypes.c_int)]
    native.optcc_choose_isa.argtypes = [ctypes.c_char_p]
    pointers = (ctypes.c_void_p,) * 6
    native.optcc_sample.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, *pointers]
    native.optcc_sample.restype = ctypes.c_int64
    return native


def _usable(native: ctypes.CDLL) -> tuple[str, ...]:
    found, can, index = [], ctypes.c_int(), 0
    while name := native.optcc_isa_at(index, ctypes.byref(can)):
        found += [name.decode()] if can.value else []
        index += 1
    return tuple(found)
