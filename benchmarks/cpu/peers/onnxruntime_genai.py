"""ONNX Runtime GenAI: its generator, a padded batch for many requests; scores come from the same graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.cpu.peers.protocol import Job, Tokens, serve


class OnnxRuntimeGenai:
    """One built model folder."""

    def __init__(self, job: Job) -> None:
        import onnxruntime_genai

        self.version: str = onnxruntime_genai.__version__
        self._job = job
        config = onnxruntime_genai.Config(job.model)
        threads = {"model": {"decoder": {"session_options": {"intra_op_num_threads": job.threads}}}}
        config.overlay(json.dumps(threads))
        self._model = onnxruntime_genai.Model(config)

    def generate(self, prompts: Tokens, new_tokens: int) -> Tokens:
        """One generator for all prompts, which must be equally long."""
        import numpy as np
        import onnxruntime_genai

        length = len(prompts[0])
        params = onnxruntime_genai.GeneratorParams(self._model)
        whole = length + new_tokens
        params.set_search_options(
            max_length=whole, min_length=whole, do_sample=False, batch_size=len(prompts)
        )
        generator = onnxruntime_genai.Generator(self._model, params)
        ids = np.array(prompts, np.int32)
        generator.append_tokens(ids if len(prompts) > 1 else ids[0])
        for _ in range(new_tokens):
            generator.generate_next_token()
        return [list(generator.get_sequence(row))[length:] for row in range(len(prompts))]

    def score(self, windows: Tokens) -> list[float]:
        """Logits of the graph in ONNX Runtime, from an empty cache."""
        import numpy as np
        import onnxruntime

        from benchmarks.cpu.peers.scoring import window_nll

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._job.threads
        session = onnxruntime.InferenceSession(
            f"{self._job.model}/model.onnx", options, providers=["CPUExecutionProvider"]
        )
        decoder = json.loads(Path(self._job.model, "genai_config.json").read_text())["model"]["decoder"]
        shape = (1, decoder["num_key_value_heads"], 0, decoder["head_size"])
        ports = [port.name for port in session.get_inputs()]
        empty = {name: np.zeros(shape, np.float32) for name in ports if name.startswith("past")}
        others = set(ports) - set(empty)
        found = []
        for window in windows:
            known: dict[str, Any] = {
                "input_ids": np.array([window], np.int64),
                "attention_mask": np.ones((1, len(window)), np.int64),
                "position_ids": np.arange(len(window), dtype=np.int64)[None],
            }
            feeds = {**empty, **{name: known[name] for name in others}}
            found.append(window_nll(session.run(["logits"], feeds)[0][0], window))
        return found


if __name__ == "__main__":
    serve(OnnxRuntimeGenai, ("numpy", "onnxruntime_genai"))
