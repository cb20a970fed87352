"""Hold an artifact against its original: the last stage of a compile, and `optcc check`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from optcc.artifact import Manifest
from optcc.compile.gate import Checked, Watch, check_decoder, check_function
from optcc.compile.pair import Pair, Subject, open_pair
from optcc.recipe import CheckOptions


def check_pair(
    pair: Pair,
    options: CheckOptions,
    limits: Mapping[str, float],
    watch: Watch,
    base: Path | None = None,
    learned: Sequence[str] = (),
) -> Checked:
    """Compare both sides of an open pair.

    Args:
        pair: original and artifact.
        options: texts and sizes.
        limits: metric to limit.
        watch: told about progress.
        base: directory that data files are relative to.
        learned: marks of the text that passes learned from.
    """
    if pair.manifest.kind == "decoder":
        return check_decoder(pair, options, limits, watch, base, learned)
    return check_function(pair, options, limits, watch, base)


def check_artifact(
    root: Path,
    manifest: Manifest,
    subject: Subject,
    options: CheckOptions,
    limits: Mapping[str, float],
    watch: Watch,
    threads: int,
) -> Checked:
    """Open an artifact and its original, and compare them. Arguments as of `Pair` and `check_pair`."""
    with open_pair(root, manifest, subject, threads) as pair:
        return check_pair(pair, options, limits, watch)
