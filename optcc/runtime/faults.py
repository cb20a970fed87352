"""What can go wrong at run time beyond a bad option: one user error, two bugs."""

from __future__ import annotations

from optcc.errors import OptccError


class BadPrompt(OptccError):
    """The prompt can't be used.

    It is empty, holds a token id outside the vocabulary, or the model's chat template refuses the messages
    (many insist on alternating user and assistant turns). The message quotes the template's own words.
    """

    code = "E705"


class PoolCorrupt(AssertionError):
    """The block pool's books don't balance: a bug of the engine, never of a user."""


class BadLogits(RuntimeError):
    """The model returned NaN or infinity where a choice was needed: a bug of the artifact or its backend."""
