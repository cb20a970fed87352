"""The files of a model that are neither weights nor tokenizer: what an export needs to be the same model again."""

from __future__ import annotations

from pathlib import Path

ORIGIN = "source"
"""Folder of an artifact that keeps them."""
_FILES = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")


def origin_files(directory: Path) -> dict[str, Path]:
    """Those that a model directory has, by name."""
    return {name: directory / name for name in _FILES if (directory / name).is_file()}
