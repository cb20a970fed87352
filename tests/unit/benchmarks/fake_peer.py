"""A worker with arithmetic in place of an engine: run as a real process by the tests of the protocol."""

import os
import sys
import time

from benchmarks.cpu.peers.protocol import Job, Tokens, serve


class Fake:
    """Token i of an answer is the prompt's last token + i + 1. `settings` make it misbehave."""

    def __init__(self, job: Job) -> None:
        if not os.path.exists(job.model):
            raise FileNotFoundError(job.model)
        self.version = "1.2"
        self.job = job
        print("chatter on standard output")
        os.write(1, b"and from C\n")

    def generate(self, prompts: Tokens, new_tokens: int) -> Tokens:
        behaviour = self.job.settings.get("behaviour")
        if behaviour == "crash":
            sys.stderr.flush()
            os._exit(7)
        if behaviour == "hang":
            time.sleep(60)
        time.sleep(float(self.job.settings.get("delay", "0")))
        count = new_tokens - 1 if behaviour == "stop early" else new_tokens
        return [[prompt[-1] + 1 + i for i in range(count)] for prompt in prompts]

    def score(self, windows: Tokens) -> list[float]:
        return [2.5 * (len(window) - 1) for window in windows]


if __name__ == "__main__":
    serve(Fake, ("json",))
