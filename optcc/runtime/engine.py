"""The engine: requests in, events out, over one executor.

Single-threaded and driven from outside: every `step` runs one batch. A text never depends on what else is
running: with an executor whose rows are independent, it is a function of the request alone.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from optcc.errors import NotATextModel
from optcc.runtime.batching import BatchBuilder
from optcc.runtime.blocks import BlockPool
from optcc.runtime.events import Event, FinishedEvent, TokenEvent, finished_event
from optcc.runtime.executor import Executor
from optcc.runtime.faults import BadPrompt
from optcc.runtime.request import FinishReason, Request, RequestState, StopConditions
from optcc.runtime.sampler import GREEDY, SamplingParams
from optcc.runtime.scheduler import Limits, Scheduler, Step
from optcc.runtime.stats import EngineCounters, RequestTiming
from optcc.runtime.stream import Stream
from optcc.runtime.text import TextStream
from optcc.runtime.tokenizer import Tokenizer


@dataclass(slots=True)
class _Entry:
    """What the engine keeps of an unfinished request."""

    state: RequestState
    timing: RequestTiming
    text: TextStream | None
    mailbox: deque[Event] | None  # of a `stream`; None sends events to the callers of `step`
    pieces: list[str] = field(default_factory=list)


class Engine:
    """Serves one decoder.

    Args:
        executor: bound here to a pool of `blocks`; the caller closes it.
        blocks: KV blocks in the pool; `blocks * spec.block_size` tokens fit.
        tokenizer: needed for text prompts, text in events and stop strings; token ids work without.
        limits: most tokens and requests in one step.
        clock: seconds; only for timings.
        debug: check pool and tables before and after every step (slow).
    """

    def __init__(
        self,
        executor: Executor,
        *,
        blocks: int,
        tokenizer: Tokenizer | None = None,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.perf_counter,
        debug: bool = False,
    ) -> None:
        self.executor = executor
        self.tokenizer = tokenizer
        self.counters = EngineCounters()
        self.scheduler = Scheduler(executor.spec, BlockPool(blocks), limits or Limits())
        self._batches = BatchBuilder()
        self._clock = clock
        self._debug = debug
        self._entries: dict[str, _Entry] = {}
        self._undelivered: list[Event] = []
        self._arrivals = 0
        executor.bind(blocks)

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to run or to tell."""
        return bool(self._entries or self._undelivered)

    def submit(self, request: Request) -> str:
        """Queue a request and return its id (given, or "r0", "r1", …). Its events come out of `step`.

        Raises, leaving everything as it was: BadPrompt (E705: empty, or an id outside the vocabulary),
        PromptTooLong (E702), PoolTooSmall (E701), NotATextModel (E704: stop strings without a tokenizer),
        ValueError (id in use).
        """
        return self._submit(request, None)

    def stream(self, request: Request) -> Stream:
        """Submit at once and return the events of this request alone, the FinishedEvent last.

        Asking for the next event steps the engine when none is there. Several streams can be open; events of
        requests that were `submit`ted meanwhile wait for the next `step`. Closing the stream early cancels
        the request.
        """
        mailbox: deque[Event] = deque()
        name = self._submit(request, mailbox)
        return Stream(name, mailbox, self._advance, lambda: self.cancel(name))

    def generate(
        self,
        prompts: Sequence[str] | Sequence[Sequence[int]],
        sampling: SamplingParams = GREEDY,
        stop: StopConditions | None = None,
    ) -> list[FinishedEvent]:
        """Answer all prompts (texts, or token ids) in one go; results in their order.

        Raises what `submit` raises; then none of the prompts is left running.
        """
        stop = stop or StopConditions()
        with ExitStack() as open_streams:
            streams: list[Stream] = []
            for prompt in prompts:
                ids = self.encode(prompt) if isinstance(prompt, str) else prompt
                streams.append(open_streams.enter_context(self.stream(Request(tuple(ids), sampling, stop))))
            return [stream.result() for stream in streams]

    def encode(self, text: str) -> list[int]:
        """The token ids of a plain prompt. Raises NotATextModel (E704) without a tokenizer."""
        if self.tokenizer is None:
            raise NotATextModel("there is no tokenizer", hint="give token ids instead of text")
        return self.tokenizer.encode(text)

    def cancel(self, request_id: str) -> bool:
        """Withdraw a request; its FinishedEvent says "cancelled". False if no such request is unfinished."""
        entry = self._entries.get(request_id)
        if entry is None:
            return False
        event = self._finish(entry, "cancelled")
        (self._undelivered if entry.mailbox is None else entry.mailbox).append(event)
        return True

    def step(self) -> list[Event]:
        """Run one batch and return what happened (also what is left from steps that streams drove).

        If the executor raises, nothing has changed but block tables: the same tokens are run again by the
        next call.
        """
        if self._entries:
            self._advance()
        events, self._undelivered = self._undelivered, []
        return events

    def _submit(self, request: Request, mailbox: deque[Event] | None) -> str:
        spec = self.executor.spec
        if not request.prompt:
            raise BadPrompt("the prompt is empty", hint="give at least one token")
        if not 0 <= min(request.prompt) <= max(request.prompt) < spec.vocab:
            raise BadPrompt(
                f"the prompt has token ids {min(request.prompt)}..{max(request.prompt)}, "
                f"the vocabulary 0..{spec.vocab - 1}",
                hint="is this the model's own tokenizer?",
            )
        if request.stop.strings and self.tokenizer is None:
            raise NotATextModel("stop strings need a tokenizer")
        if request.id in self._entries:
            raise ValueError(f"request id {request.id!r} is in use")
        fresh = (f"r{number}" for number in itertools.count(self._arrivals))
        name = request.id or next(name for name in fresh if name not in self._entries)
        ends = spec.eos_token_ids if request.stop.eos_token_ids is None else request.stop.eos_token_ids
        state = RequestState(replace(request, id=name), self._arrivals, frozenset(ends))
        self.scheduler.submit(state)
        self._arrivals += 1
        text = TextStream(self.tokenizer.stream(), request.stop.strings) if self.tokenizer else None
        self._entries[name] = _Entry(state, RequestTiming(self._clock()), text, mailbox)
        return name

    def _advance(self) -> None:
        """Schedule, run, sample, tell."""
        if self._debug:
            self.scheduler.check()
        step = self.scheduler.schedule()
        chosen = self._run(step)
        self.scheduler.commit(step)
        self.counters.steps += 1
        self.counters.computed_tokens += sum(step.values())
        self.counters.generated_tokens += len(chosen)
        now = self._clock()
        for state, token in chosen:
            self._append(self._entries[state.request.id], token, now)
        if self._debug:
            self.scheduler.check()

    def _run(self, step: Step) -> list[tuple[RequestState, int]]:
        """Run a step and choose a token for every request that is ready for one."""
        batch, ready = self._batches.build(step)
        handle = self.executor.step(batch)
        if not ready:
            return []
        params = [state.request.sampling for state in ready]
        tokens = self.executor.sample(handle, params, [len(state.tokens) for state in ready])
        return list(zip(ready, tokens, strict=True))

    def _append(self, entry: _Entry, token: int, now: float) -> None:
        """Add a token to an answer, tell it, and end the answer if that was the last."""
        state, stop = entry.state, entry.state.request.stop
        state.tokens.append(token)
        entry.timing.tokens.append(now)
        count = state.generated_count
        reason: FinishReason | None = None
        if token in state.eos:
            reason = "eos"
        elif count == stop.max_tokens:
            reason = "length"
        piece = ""
        if entry.text is not None:
            # The end token is no text, even in vocabularies that spell it out.
            piece, stopped = entry.text.push(token) if reason != "eos" else ("", False)
            if reason is not None and not stopped:
                rest, stopped = entry.text.flush()
                piece += rest
            reason = "stop" if stopped else reason
            entry.pieces.append(piece)
        tell = (self._undelivered if entry.mailbox is None else entry.mailbox).append
        tell(TokenEvent(state.request.id, token, count - 1, piece))
        if reason is not None:
            tell(self._finish(entry, reason))

    def _finish(self, entry: _Entry, reason: FinishReason) -> FinishedEvent:
        self.scheduler.finish(entry.state, reason)
        del self._entries[entry.state.id]
        entry.timing.finished = self._clock()
        return finished_event(entry.state, "".join(entry.pieces), entry.timing)
