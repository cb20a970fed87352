"""Prompts and scored windows as token ids, from the built-in texts, the same for every engine.

    python -m benchmarks.cpu.inputs CHECKPOINT OUT.json

Prompts come from calibration text and scored windows from check text: no token is in both.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path

WINDOW = 512
SCORED = 8192
SHORT = 64
SHORT_PROMPTS = 16
LONG_PROMPTS = 8


@dataclass(frozen=True)
class Inputs:
    """Token ids.

    Attributes:
        short: SHORT_PROMPTS prompts of SHORT tokens.
        long: LONG_PROMPTS prompts of WINDOW tokens.
        windows: SCORED tokens in windows of WINDOW.
        digest: of all of them.
    """

    short: list[list[int]]
    long: list[list[int]]
    windows: list[list[int]]
    digest: str

    @classmethod
    def load(cls, path: Path) -> Inputs:
        """Read what `write_inputs` wrote."""
        text = path.read_text()
        data = json.loads(text)
        return cls(data["short"], data["long"], data["windows"], hashlib.sha256(text.encode()).hexdigest())


def write_inputs(checkpoint: Path, out: Path) -> None:
    """Tokenize and write."""
    from tokenizers import Tokenizer

    from optcc.accuracy.data import load_text_sets

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))

    def encode(text: str) -> list[int]:
        found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return found

    scored = load_text_sets(["prose", "code"], encode, tokens=SCORED, window=WINDOW)
    count = LONG_PROMPTS + SHORT_PROMPTS * SHORT // WINDOW
    (prompts,) = load_text_sets(["prose"], encode, tokens=count * WINDOW, window=WINDOW, split="calibration")
    rows = [[int(token) for token in window] for window in prompts.windows]
    rest = [token for row in rows[LONG_PROMPTS:] for token in row]
    data = {
        "short": [rest[start : start + SHORT] for start in range(0, SHORT_PROMPTS * SHORT, SHORT)],
        "long": rows[:LONG_PROMPTS],
        "windows": [[int(token) for token in window] for text in scored for window in text.windows],
    }
    out.write_text(json.dumps(data))


if __name__ == "__main__":
    write_inputs(Path(sys.argv[1]), Path(sys.argv[2]))
