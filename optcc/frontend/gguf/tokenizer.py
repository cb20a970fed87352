"""The tokenizer inside a GGUF file, as `tokenizer.json`."""

from __future__ import annotations

import json
from pathlib import Path

from optcc.errors import UnsupportedArchitecture
from optcc.frontend.gguf.metadata import Fields

# `tokenizer.ggml.pre` names the rule that splits text before merging. These share GPT-2's rule; those below
# add to it that every digit stands alone. Source: llama.cpp, src/llama-vocab.cpp.
_GPT2 = {"default", "gpt-2", "gpt2", "olmo", "phi-2", "jina-en", "mpt"}
_DIGITS = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"}


def write_tokenizer(path: Path, fields: Fields, directory: Path) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json` and, if the file has one, `chat_template.jinja`.

    A file without a vocabulary writes nothing.

    Raises UnsupportedArchitecture for a tokenizer whose splitting rule is not known: a wrong rule gives
        other tokens.
    """
    if "tokenizer.ggml.tokens" not in fields:
        return
    from tokenizers import pre_tokenizers
    from transformers.integrations.gguf import gguf_tokenizer_mapping as mapping

    rule = str(fields.get("tokenizer.ggml.pre", "default"))
    byte_level = fields.get("tokenizer.ggml.model") == "gpt2"
    if byte_level and rule not in _GPT2 | _DIGITS | mapping.GGUF_PRE_TOKENIZER_SPLITS.keys():
        raise UnsupportedArchitecture(f"tokenizer with the splitting rule {rule!r}", where=str(path))
    architecture, vocabulary, roles = mapping.get_gguf_tokenizer(str(path))
    backend, _ = mapping.convert_gguf_tokenizer(architecture, vocabulary)
    if byte_level and rule in _DIGITS:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    # Not `save`, which hides the error of a full disk behind a plain Exception.
    (directory / "tokenizer.json").write_text(backend.to_str(pretty=True), "utf-8")
    settings: dict[str, object] = {
        role: token for role, token in roles.items() if role.endswith("_token") and token
    }
    settings["add_bos_token"] = bool(fields.get("tokenizer.ggml.add_bos_token", not byte_level))
    text = json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False)
    (directory / "tokenizer_config.json").write_text(text + "\n", "utf-8")
    template = fields.get("tokenizer.chat_template")
    if isinstance(template, str):
        (directory / "chat_template.jinja").write_text(template, "utf-8")
