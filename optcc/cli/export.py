"""`optcc export`: what optcc made, in the forms of other tools."""

from __future__ import annotations

import click

from optcc.cli.lazy import LazyGroup

_VERBS = {"hf": "Write a Hugging Face checkpoint: compressed-tensors or modelopt's format."}

command: click.Group = LazyGroup(
    "export",
    package="optcc.cli.exports",
    verbs=_VERBS,
    help="Write an artifact as a checkpoint that other tools load.",
)
