"""Which layers and tensors carry a loss, measured by putting them back."""

from optcc.compile.blame.flow import BlameOptions, BlameResult, blame_artifact, blame_recipe

__all__ = ["BlameOptions", "BlameResult", "blame_artifact", "blame_recipe"]
