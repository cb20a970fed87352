"""What can go wrong at run time and is nobody's input: bugs, of the engine or of an artifact."""

from __future__ import annotations

from optcc.errors import BadPrompt

__all__ = ["BadLogits", "BadPrompt", "PoolCorrupt"]


class PoolCorrupt(AssertionError):
    """The block pool's books don't balance: a bug of the engine, never of a user."""


class BadLogits(RuntimeError):
    """The model returned NaN or infinity where a choice was needed: a bug of the artifact or its backend."""
