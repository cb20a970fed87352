"""What harness and worker say to each other: JSON lines, a request on standard input, an answer on standard output.

    {"do": "open", "model": PATH, "threads": N, "settings": {...}}
        -> {"version": "...", "import_seconds": S, "load_seconds": S, "ready_seconds": S}
    {"do": "generate", "prompts": [[id, ...], ...], "new_tokens": N, "times": K}
        -> {"seconds": [S] * K, "tokens": [[id] * N, ...]}            greedy; end tokens are ignored
    {"do": "score", "windows": [[id, ...], ...]}
        -> {"nll": [nats in all, of every window]}                    all tokens of a window but its first
    {"do": "close"} -> {}

An answer {"error": "..."} stands for what went wrong; the traceback goes to standard error. Clocks are read in the
worker, around the engine's call alone, so that neither the pipe nor JSON is part of a figure. Standard library only.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

Tokens = list[list[int]]

CACHE_TOKENS = 2304
"""Tokens that a KV cache of fixed size holds: 16 requests of 64 in and 64 out, and a little to spare."""


@dataclass(frozen=True)
class Job:
    """What to open: the model's file or folder, with how many threads, and what else this worker needs to know."""

    model: str
    threads: int
    settings: Mapping[str, str]


class Peer(Protocol):
    """One engine with one model."""

    version: str

    def generate(self, prompts: Tokens, new_tokens: int) -> Tokens:
        """Exactly `new_tokens` greedy tokens for every prompt, all prompts at once, nothing kept from earlier calls."""
        ...

    def score(self, windows: Tokens) -> list[float]:
        """Negative log-likelihood in nats of every window: of all its tokens but the first."""
        ...


def serve(open_peer: Callable[[Job], Peer], modules: Sequence[str]) -> None:
    """Answer requests until "close" or the end of the input.

    Args:
        open_peer: loads a model.
        modules: what it imports, imported here first so that its time is known apart from loading.
    """
    answers = _keep_stdout()
    peer: Peer | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "close":
                _tell(answers, {})
                break
            if request["do"] == "open":
                peer, answer = _open(open_peer, modules, request)
            elif peer is None:
                raise RuntimeError("the first request must be `open`")
            else:
                answer = _answer(peer, request)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        _tell(answers, answer)
    # Engines that stop their threads badly would turn a finished measurement into a crash.
    sys.stderr.flush()
    os._exit(0)


def _keep_stdout() -> TextIO:
    """The real standard output; whatever an engine prints goes to standard error instead, from C code too."""
    kept = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return kept


def _tell(answers: TextIO, answer: Mapping[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _open(
    open_peer: Callable[[Job], Peer], modules: Sequence[str], request: Mapping[str, Any]
) -> tuple[Peer, dict[str, Any]]:
    began = time.perf_counter()
    for name in modules:
        importlib.import_module(name)
    imported = time.perf_counter()
    peer = open_peer(Job(request["model"], request["threads"], request["settings"]))
    loaded = time.perf_counter()
    answer = {
        "version": peer.version,
        "import_seconds": imported - began,
        "load_seconds": loaded - imported,
        "ready_seconds": loaded - began,
    }
    return peer, answer


def _answer(peer: Peer, request: Mapping[str, Any]) -> dict[str, Any]:
    if request["do"] == "score":
        return {"nll": peer.score(request["windows"])}
    if request["do"] != "generate":
        raise ValueError(f"unknown request {request['do']!r}")
    seconds: list[float] = []
    tokens_out: Tokens = []
    for _ in range(request["times"]):
        began = time.perf_counter()
        tokens_out = peer.generate(request["prompts"], request["new_tokens"])
        seconds.append(time.perf_counter() - began)
    _require_lengths(tokens_out, len(request["prompts"]), request["new_tokens"])
    return {"seconds": seconds, "tokens": [[int(token) for token in row] for row in tokens_out]}


def _require_lengths(tokens: Tokens, prompts: int, new_tokens: int) -> None:
    """An engine that stopped early would look fast."""
    found = [len(row) for row in tokens]
    if found != [new_tokens] * prompts:
        raise ValueError(f"expected {prompts} x {new_tokens} tokens, the engine gave {found}")
