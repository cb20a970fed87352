"""llama.cpp through its C interface: all requests advance together in one batch of several sequences."""

from __future__ import annotations

import ctypes
from typing import Any

from benchmarks.cpu.peers.protocol import CACHE_TOKENS, Job, Tokens, serve

_BATCH = 1024
_SEQUENCES = 16

Row = tuple[int, int, int, bool]
"""Token, position, sequence, whether its logits are wanted."""


class LlamaCpp:
    """One GGUF file and one context."""

    def __init__(self, job: Job) -> None:
        import llama_cpp
        import numpy as np

        self.version: str = llama_cpp.__version__
        self._lib: Any = llama_cpp.llama_cpp
        self._np = np
        lib = self._lib
        lib.llama_backend_init()
        self._quiet = lib.llama_log_callback(lambda *_: None)
        lib.llama_log_set(self._quiet, ctypes.c_void_p(0))
        model_options = lib.llama_model_default_params()
        model_options.n_gpu_layers = 0
        model = lib.llama_model_load_from_file(job.model.encode(), model_options)
        if not model:
            raise ValueError(f"llama.cpp can't load {job.model}")
        options = lib.llama_context_default_params()
        options.n_ctx = CACHE_TOKENS
        options.n_batch = _BATCH
        options.n_ubatch = 512
        options.n_seq_max = _SEQUENCES
        options.n_threads = options.n_threads_batch = job.threads
        options.kv_unified = True
        self._context = lib.llama_init_from_model(model, options)
        self._vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
        self._memory = lib.llama_get_memory(self._context)
        self._batch = lib.llama_batch_init(_BATCH, 0, _SEQUENCES)

    def _run(self, rows: list[Row]) -> None:
        batch = self._batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = wanted
        code = self._lib.llama_decode(self._context, batch)
        if code != 0:
            raise RuntimeError(f"llama_decode returned {code}")

    def _best(self, row: int) -> int:
        logits = self._lib.llama_get_logits_ith(self._context, row)
        return int(self._np.ctypeslib.as_array(logits, shape=(self._vocabulary,)).argmax())

    def generate(self, prompts: Tokens, new_tokens: int) -> Tokens:
        """Prompts in one batch (16 x 64 tokens fit), then one token of every sequence a step."""
        self._lib.llama_memory_clear(self._memory, True)
        rows: list[Row] = []
        last: list[int] = []
        for sequence, prompt in enumerate(prompts):
            rows += [(token, i, sequence, i == len(prompt) - 1) for i, token in enumerate(prompt)]
            last.append(len(rows) - 1)
        self._run(rows)
        found = [[self._best(row)] for row in last]
        for step in range(new_tokens - 1):
            self._run([(own[-1], len(prompts[s]) + step, s, True) for s, own in enumerate(found)])
            for sequence, own in enumerate(found):
                own.append(self._best(sequence))
        return found

    def score(self, windows: Tokens) -> list[float]:
        """Logits of every row of a window."""
        from benchmarks.cpu.peers.scoring import window_nll

        found = []
        for window in windows:
            self._lib.llama_memory_clear(self._memory, True)
            self._run([(token, i, 0, True) for i, token in enumerate(window)])
            shape = (len(window), self._vocabulary)
            flat = self._np.ctypeslib.as_array(
                self._lib.llama_get_logits(self._context), shape=(shape[0] * shape[1],)
            )
            found.append(window_nll(flat.reshape(shape), window))
        return found


if __name__ == "__main__":
    serve(LlamaCpp, ("numpy", "llama_cpp"))
