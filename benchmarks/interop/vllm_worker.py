"""Runs in vLLM's own environment: prompts in, greedy tokens and the gaps behind them out. Imports nothing of optcc.

python vllm_worker.py JOB.json RESULT.json
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

_SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}


def main(job_path: str, result_path: str) -> None:
    """The job: `model` directory, `dtype`, `prompts` (token ids), `tokens` to generate."""
    job = json.loads(Path(job_path).read_text())
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=job["model"],
        dtype=job["dtype"],
        max_model_len=1024,
        max_num_seqs=1,
        enforce_eager=True,
        enable_prefix_caching=False,
    )
    params = SamplingParams(
        temperature=0, max_tokens=job["tokens"], ignore_eos=True, detokenize=False, logprobs=2
    )
    results = []
    for prompt in job["prompts"]:
        output = llm.generate([{"prompt_token_ids": prompt}], params, use_tqdm=False)[0].outputs[0]
        gaps = []
        for entry in output.logprobs:
            best = sorted((value.logprob for value in entry.values()), reverse=True)
            gaps.append(best[0] - best[1])
        results.append({"tokens": list(output.token_ids), "gaps": gaps})
    Path(result_path).write_text(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
