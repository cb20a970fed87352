"""Checkpoints for other tools: a compiled module's weights under the model's own names, in a public format."""

from optcc.export.hf import Exported, export_hf

__all__ = ["Exported", "export_hf"]
