"""Open an artifact and hold it against its original: the last stage of a compile, and `optcc check`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optcc.artifact import Manifest
from optcc.backends.registry import load_backend
from optcc.compile.gate import Checked, Subject, Watch, check_decoder, check_function
from optcc.recipe import CheckOptions
from optcc.runtime.chat import ChatTemplate
from optcc.runtime.tokenizer import Tokenizer


def check_artifact(
    root: Path,
    manifest: Manifest,
    subject: Subject,
    options: CheckOptions,
    limits: Mapping[str, float],
    watch: Watch,
    threads: int,
) -> Checked:
    """Compare an artifact with the model it was made from.

    Args:
        root: the artifact's directory; its hashes are not looked at.
        manifest: of the artifact.
        subject: the original.
        options: texts and sizes.
        limits: metric to limit.
        watch: told about progress.
        threads: 0 means one per physical core.
    """
    backend = load_backend(str(manifest.target["backend"]))
    tokenizer, render = text_tools(root)
    if manifest.kind == "decoder":
        executor = backend.open_decoder(root, manifest.spec, threads)
        try:
            return check_decoder(subject, executor, tokenizer, render, options, limits, watch)
        finally:
            executor.close()
    function = backend.open_function(root, manifest.spec, threads)
    return check_function(subject, function, tokenizer, manifest.spec, options, limits, watch)


def text_tools(
    root: Path,
) -> tuple[Tokenizer | None, Callable[[Sequence[Mapping[str, str]]], str] | None]:
    """An artifact's tokenizer and chat template, where it has them."""
    folder = root / "tokenizer"
    if not (folder / "tokenizer.json").is_file():
        return None, None
    tokenizer = Tokenizer.load(folder)
    if not (folder / "chat_template.jinja").is_file():
        return tokenizer, None
    special = tokenizer.special
    template = ChatTemplate.load(folder, bos_token=special.bos_token or "", eos_token=special.eos_token or "")

    def render(messages: Sequence[Mapping[str, Any]]) -> str:
        return template.render([dict(m) for m in messages])

    return tokenizer, render
