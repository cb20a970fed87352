"""optcc: an artifact in its engine, through the public runtime, as `optcc serve` would use it."""

from __future__ import annotations

from pathlib import Path

from benchmarks.cpu.peers.protocol import CACHE_TOKENS, Job, Tokens, serve


class Optcc:
    """One artifact and one engine over it."""

    def __init__(self, job: Job) -> None:
        from optcc import __version__
        from optcc.cli.opening import open_running

        self.version = __version__
        _, self._executor = open_running(Path(job.model), force=False, threads=job.threads)
        self._renew()

    def _renew(self) -> None:
        from optcc.runtime import Engine

        self._engine = Engine(self._executor, blocks=self._executor.spec.blocks_for(CACHE_TOKENS))

    def generate(self, prompts: Tokens, new_tokens: int) -> Tokens:
        """All prompts through one engine."""
        from optcc.runtime import StopConditions

        stop = StopConditions(max_tokens=new_tokens, eos_token_ids=())
        return [list(event.tokens) for event in self._engine.generate(prompts, stop=stop)]

    def score(self, windows: Tokens) -> list[float]:
        """Logits from the executor that serves."""
        import numpy as np

        from benchmarks.cpu.peers.scoring import window_nll
        from optcc.runtime import score_windows

        found = []
        for window in windows:  # one at a time: 512 rows of logits are 100 MB
            found.append(window_nll(np.concatenate(list(score_windows(self._executor, [window]))), window))
        self._renew()  # scoring took the executor's pool
        return found


if __name__ == "__main__":
    modules = ("numpy", "optcc.artifact", "optcc.cli.opening", "optcc.runtime", "onnxruntime")
    serve(Optcc, modules)
