"""Faults of tokenizers and data: the artifact may be right, and what it reads or is measured on is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.fault import Fault
from tests.faults.models import write_tokenizer
from tests.faults.plant import Planting

_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _file(name: str, change: Callable[[str], str]) -> Callable[[Planting], None]:
    """Another content of a file of the artifact's tokenizer."""

    def edit(root: Path) -> None:
        path = root / "tokenizer" / name
        path.write_text(change(path.read_text("utf-8")), "utf-8")

    return lambda p: p.written(edit)


def _special(**values: object) -> Callable[[Planting], None]:
    return _file("special.json", lambda text: json.dumps({**json.loads(text), **values}))


def _other_tokenizer(p: Planting) -> None:
    """One that was learned from other text, with as many tokens."""

    def edit(root: Path) -> None:
        write_tokenizer(root / "tokenizer", documents=3)
        (root / "tokenizer" / "tokenizer_config.json").unlink()

    p.written(edit)


def _tokens(change: Callable[[dict[str, Any]], None]) -> Callable[[Planting], None]:
    def edit(text: str) -> str:
        data = json.loads(text)
        change(data)
        return json.dumps(data)

    return _file("tokenizer.json", edit)


def _exchanged(data: dict[str, Any]) -> None:
    vocabulary = data["model"]["vocab"]
    a, b = sorted(vocabulary, key=vocabulary.__getitem__)[-40:-38]
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]


def _fewer_merges(data: dict[str, Any]) -> None:
    data["model"]["merges"] = data["model"]["merges"][:-20]


def _prefix_space(data: dict[str, Any]) -> None:
    data["pre_tokenizer"]["add_prefix_space"] = True


def _lower_case(data: dict[str, Any]) -> None:
    data["normalizer"] = {"type": "Lowercase"}


def _no_decoder(data: dict[str, Any]) -> None:
    data["decoder"] = None


def _no_first_token(p: Planting) -> None:
    """Neither of the two files that ask for it does."""
    _tokens(lambda data: data.update(post_processor=None))(p)
    _special(add_bos=False)(p)


def _chatml(p: Planting) -> None:
    _file("chat_template.jinja", lambda _: _CHATML)(p)


def _no_template(p: Planting) -> None:
    p.written(lambda root: (root / "tokenizer" / "chat_template.jinja").unlink())


def _leak(p: Planting) -> None:
    """Passes learn from the half of the documents that is for checks."""
    from optcc.compile import calibrate

    before = calibrate.decoder_texts

    def wrong(tools: Any, options: Any, window: int, split: str, *rest: Any) -> Any:
        return before(tools, options, window, "check", *rest)

    p.patch.setattr(calibrate, "decoder_texts", wrong)


def _partial_leak(p: Planting) -> None:
    """A fifth of the documents are in both halves."""
    from optcc.accuracy import data

    before = data.split_documents

    def wrong(documents: Any, split: Any) -> list[str]:
        own = before(documents, split)
        return own if split == "check" else before(documents, "check")[: len(own) // 3] + own

    p.patch.setattr(data, "split_documents", wrong)


def _overlapping(p: Planting) -> None:
    """Windows that begin in the middle of the one before."""
    from optcc.accuracy import data

    before = data._fill

    def wrong(passages: Any, encode: Any, sizes: Any, bos: int | None) -> Any:
        import numpy as np

        windows = before(passages, encode, sizes, bos)
        size = len(windows[0])
        stream = np.concatenate(windows)
        return tuple(stream[i * (size // 2) : i * (size // 2) + size] for i in range(len(windows)))

    p.patch.setattr(data, "_fill", wrong)


def _same_window(p: Planting) -> None:
    from optcc.accuracy import data

    before = data._fill
    p.patch.setattr(data, "_fill", lambda *args: (before(*args)[0],) * len(args[2]))


ONCE = ("int8",)
FAULTS = (
    Fault("wrong tokenizer of the same size", "tokenizer", _other_tokenizer, recipes=ONCE),
    Fault("two tokens exchanged", "tokenizer", _tokens(_exchanged), recipes=ONCE),
    Fault("merges cut short", "tokenizer", _tokens(_fewer_merges), recipes=ONCE),
    Fault("a blank before every text", "tokenizer", _tokens(_prefix_space), recipes=ONCE),
    Fault("text in lower case", "tokenizer", _tokens(_lower_case), recipes=ONCE),
    Fault("decoder missing", "tokenizer", _tokens(_no_decoder), recipes=ONCE),
    Fault("begin-of-text token dropped", "tokenizer", _no_first_token, recipes=ONCE),
    Fault("begin-of-text token wrong", "tokenizer", _special(bos_token_id=2, add_bos=True), recipes=ONCE),
    Fault("end tokens missing", "tokenizer", _special(eos_token_ids=[5]), recipes=ONCE),
    Fault("chat template of another family", "tokenizer", _chatml, recipes=ONCE),
    Fault(
        "generation prompt missing",
        "tokenizer",
        _file("chat_template.jinja", lambda t: t[: t.index("{% if add_gen")]),
        recipes=ONCE,
    ),
    Fault("chat template missing", "tokenizer", _no_template, recipes=ONCE),
    Fault(
        "begin-of-text token twice in a chat",
        "tokenizer",
        _file("chat_template.jinja", lambda t: "{{ bos_token }}" + t),
        recipes=ONCE,
    ),
    Fault("calibrated on the check's text", "data", _leak, recipes=("int4-gptq",)),
    Fault("a third of the calibration text is the check's", "data", _partial_leak, recipes=("int4-gptq",)),
    Fault("check windows overlap", "data", _overlapping, recipes=ONCE),
    Fault("one check window again and again", "data", _same_window, recipes=ONCE),
)  # fmt: skip
