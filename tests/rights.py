"""Permissions that count for root too."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3: two sets of 32
_FILES = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, of capabilities(7)


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Set(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


@contextmanager
def modes_count() -> Iterator[None]:
    """Within, the modes of files hold for this thread whoever runs it; root lays down its right to ignore them."""
    if os.geteuid() != 0:
        yield
        return
    if sys.platform != "linux":
        pytest.skip("only Linux lets root lay down one of its rights")
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = _Header(_VERSION, 0), (_Set * 2)()

    def call(function: object) -> None:
        if function(ctypes.byref(header), sets):  # type: ignore[operator]
            raise OSError(ctypes.get_errno(), "capabilities")

    call(libc.capget)
    before = sets[0].effective
    sets[0].effective = before & ~_FILES
    call(libc.capset)
    try:
        yield
    finally:
        sets[0].effective = before
        call(libc.capset)
