"""vLLM's CPU build, in this process (no second one for its engine), compiled as it does by default."""

from __future__ import annotations

import os
from typing import Any

from benchmarks.cpu.peers.protocol import Job, Tokens, serve


class Vllm:
    """One checkpoint. Prefix caching is off: repeated prompts would cost nothing."""

    def __init__(self, job: Job) -> None:
        # Read when vLLM makes its threads, not when it is imported.
        os.environ["OMP_NUM_THREADS"] = str(job.threads)
        import torch
        import vllm

        torch.set_num_threads(job.threads)
        self.version: str = vllm.__version__
        self._engine: Any = vllm.LLM(
            model=job.model,
            dtype="bfloat16",
            max_model_len=2048,
            max_num_seqs=16,
            enable_prefix_caching=False,
            max_logprobs=1,
        )

    def _ask(self, prompts: Tokens, new_tokens: int, prompt_logprobs: int | None) -> Any:
        import vllm

        params = vllm.SamplingParams(
            temperature=0,
            max_tokens=new_tokens,
            ignore_eos=True,
            detokenize=False,
            prompt_logprobs=prompt_logprobs,
        )
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        return self._engine.generate(asked, params, use_tqdm=False)

    def generate(self, prompts: Tokens, new_tokens: int) -> Tokens:
        """All prompts in one call."""
        return [list(output.outputs[0].token_ids) for output in self._ask(prompts, new_tokens, None)]

    def score(self, windows: Tokens) -> list[float]:
        """Log-probabilities that vLLM gives for the prompt's own tokens."""
        found = []
        for window, output in zip(windows, self._ask(windows, 1, 0)):
            given = output.prompt_logprobs[1:]  # the first token has none
            found.append(-sum(entry[token].logprob for token, entry in zip(window[1:], given)))
        return found


if __name__ == "__main__":
    serve(Vllm, ("vllm",))
