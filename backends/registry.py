"""Backends by name: each is a folder beside this file whose package has a `backend()`."""

from __future__ import annotations

import importlib
from pathlib import Path

from optcc.backends.protocol import Backend
from optcc.errors import BackendUnavailable, nearest


def backend_names() -> list[str]:
    """Names of all backends, sorted."""
    here = Path(__file__).parent
    return sorted(p.name for p in here.iterdir() if (p / "__init__.py").is_file())


def load_backend(name: str) -> Backend:
    """The backend called `name`.

    Raises:
        BackendUnavailable: there is none, with the nearest names.
    """
    if name not in backend_names():
        raise BackendUnavailable(f"there is no backend `{name}`", hint=nearest(name, backend_names()))
    found: Backend = importlib.import_module(f"optcc.backends.{name}").backend()
    return found
