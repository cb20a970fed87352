"""OpenVINO GenAI: its continuous-batching pipeline; scores come from the same graph, run directly."""

from __future__ import annotations

from typing import Any

from benchmarks.cpu.peers.protocol import Job, Tokens, serve


class OpenVino:
    """One converted model. Prefix caching is off: repeated prompts would cost nothing."""

    def __init__(self, job: Job) -> None:
        import openvino_genai

        self.version: str = openvino_genai.__version__
        self._job = job
        self._properties = {"INFERENCE_NUM_THREADS": job.threads}
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = 1  # GB at most; memory is taken as it is needed
        scheduler.max_num_batched_tokens = 1024
        scheduler.max_num_seqs = 32
        scheduler.enable_prefix_caching = False
        scheduler.dynamic_split_fuse = True
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            job.model, scheduler, "CPU", self._properties
        )

    def generate(self, prompts: Tokens, new_tokens: int) -> Tokens:
        """All prompts in one call of the pipeline."""
        import numpy as np
        import openvino
        import openvino_genai

        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = new_tokens
        config.ignore_eos = True
        config.do_sample = False
        config.apply_chat_template = False
        inputs = [openvino.Tensor(np.array([prompt], np.int64)) for prompt in prompts]
        results = self._pipeline.generate(inputs, [config] * len(prompts))
        return [list(result.m_generation_ids[0]) for result in results]

    def score(self, windows: Tokens) -> list[float]:
        """Logits of the stateful graph, its state cleared before every window."""
        import numpy as np
        import openvino

        from benchmarks.cpu.peers.scoring import window_nll

        compiled = openvino.Core().compile_model(
            f"{self._job.model}/openvino_model.xml", "CPU", self._properties
        )
        request = compiled.create_infer_request()
        found = []
        for window in windows:
            request.reset_state()
            known: dict[str, Any] = {
                "input_ids": np.array([window], np.int64),
                "attention_mask": np.ones((1, len(window)), np.int64),
                "position_ids": np.arange(len(window), dtype=np.int64)[None],
                "beam_idx": np.zeros(1, np.int32),
            }
            feeds = {name: known[name] for name in (port.get_any_name() for port in compiled.inputs)}
            found.append(window_nll(request.infer(feeds)["logits"][0], window))
        return found


if __name__ == "__main__":
    serve(OpenVino, ("numpy", "openvino", "openvino_genai"))
