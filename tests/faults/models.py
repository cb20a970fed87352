"""Tiny models with a tokenizer and a chat template, for faults to be planted in."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

import torch

from optcc.accuracy.documents import prose_documents
from tests import zoo

VOCAB = 512
SPECIAL = ("<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write_tokenizer(folder: Path, documents: int = 12, template: str = TEMPLATE) -> None:
    """A byte-level BPE of VOCAB tokens, learned from so many documents; texts start with `<s>`."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(prose_documents()[-documents:], trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    backend.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "add_bos_token": True,
        "chat_template": template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


GAIN = 0.04
"""Of what each layer adds. Trained models move the residual stream in small steps too."""
SPREAD = 8.0
"""Standard deviation of the logits: as sure of themselves as trained models are."""
_OUT = r"(o_proj|out_proj|down_proj|c_proj|fc2|attention\.dense|dense_4h_to_h)\."
_POST = r"post_(attention|feedforward)_layernorm\."


def write_model(name: str, folder: Path, seed: int = 0, **changes: Any) -> Path:
    """The zoo's model `name`, larger, with a tokenizer; each seed has other weights.

    Random weights are brought to where limits for trained models mean something: layers that add little each, and
    logits as far apart as those of trained models (`NAME-lively` leaves both out). Heads are not tied, where the fault
    needs no tied one: a random tied head says the token it has just read, unless the last norm has random signs.
    """
    name, _, lively = name.partition("-")
    model, config = zoo.build(name, **_SIZES.get(name, _WIDE), **changes)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if seed:
                generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{key}".encode()))
                order = torch.randperm(parameter.numel(), generator=generator)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
            post = name in ("gemma2", "gemma3", "olmo2")
            if re.search(_POST if post else _OUT, key):
                _scale(parameter, 1.0 if lively else GAIN, zoo.ZOO[name].norm_plus_one and post)
    model.tie_weights()
    if not lively:
        _spread(model, name)
    config.architectures = [type(model).__name__]
    config.dtype = torch.float32
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    config.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


_WIDE: dict[str, Any] = {
    "tie_word_embeddings": False,
    "vocab_size": VOCAB,
    "max_position_embeddings": 256,
    "hidden_size": 128,
    "intermediate_size": 256,
}
_SIZES: dict[str, dict[str, Any]] = {
    "qwen3": {**_WIDE, "tie_word_embeddings": True},
    "gpt2": {"tie_word_embeddings": False, "vocab_size": VOCAB, "n_embd": 128, "n_positions": 256},
    "opt": {"vocab_size": VOCAB, "max_position_embeddings": 256},
    "gemma2": {**_WIDE, "final_logit_softcapping": 12.0},
}


def _scale(parameter: torch.Tensor, factor: float, plus_one: bool) -> None:
    """In place; norms of some models store weight - 1."""
    parameter.copy_((parameter + 1) * factor - 1 if plus_one else parameter * factor)


def _spread(model: Any, name: str) -> None:
    """Bring the logits to SPREAD through the last norm's weights."""
    words = torch.randint(6, VOCAB, (4, 64), generator=torch.Generator().manual_seed(1))
    last = next(
        module
        for key, module in reversed(list(model.named_modules()))
        if "norm" in type(module).__name__.lower() and not re.search(r"layers\.|\.h\.", key)
    )
    with torch.no_grad():
        if model.config.tie_word_embeddings:
            signs = torch.randint(0, 2, last.weight.shape, generator=torch.Generator().manual_seed(2)) * 2 - 1
            last.weight.mul_(signs)
        for _ in range(3):
            factor = SPREAD / float(model(input_ids=words, use_cache=False).logits.std())
            for key, parameter in last.named_parameters():
                _scale(parameter, factor, zoo.ZOO[name].norm_plus_one and key == "weight")
            if name == "gemma2":  # the cap bounds the spread
                break
