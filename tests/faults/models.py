"""Tiny models with a tokenizer and a chat template, for faults to be planted in."""

from __future__ import annotations

import json
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


def write_model(name: str, folder: Path, seed: int = 0, **changes: Any) -> Path:
    """The zoo's model `name` with a vocabulary of its own and a tokenizer; each seed has other weights."""
    sizes = {"vocab_size": VOCAB, "max_position_embeddings": 256} if name != "gpt2" else {"vocab_size": VOCAB}
    model, config = zoo.build(name, **sizes, **changes)
    if seed:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                order = torch.randperm(parameter.numel(), generator=generator)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
        model.tie_weights()
    config.architectures = [type(model).__name__]
    config.dtype = torch.float32
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    config.save_pretrained(folder)
    write_tokenizer(folder)
    return folder
