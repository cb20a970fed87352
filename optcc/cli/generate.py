"""One answer of a decoder, streamed: what `optcc run` does once the artifact is open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from optcc.cli.common import human_bytes, print_json
from optcc.cli.display import human_seconds
from optcc.cli.opening import text_tools
from optcc.errors import NotATextModel, PromptTooLong

if TYPE_CHECKING:
    from optcc.artifact import Artifact
    from optcc.cli.run import Ask
    from optcc.memory import MemoryMeter
    from optcc.runtime import ChatTemplate, Executor, FinishedEvent, ModelSpec, Request, Stream, Tokenizer

INTERRUPTED = 130
_ENDS = {
    "eos": "the model ended its answer",
    "stop": "a stop text was found",
    "length": "the limit of tokens was reached",
    "cancelled": "interrupted",
}


def generate(artifact: Artifact, executor: Executor, ask: Ask, meter: MemoryMeter, as_json: bool) -> int:
    """Answer and return the exit code: 0, or 130 after Ctrl-C.

    Raises:
        NotATextModel, BadPrompt, PromptTooLong, PoolTooSmall, BadSampling.
    """
    from optcc.cli.run import DEFAULT_TOKENS
    from optcc.runtime import Engine, ModelSpec, Request, StopConditions

    tokenizer, template = text_tools(artifact)
    if tokenizer is None:
        raise NotATextModel(
            "the artifact has no tokenizer, so it can't read a prompt", where=str(artifact.root)
        )
    ids = encode(tokenizer, template, ask)
    spec = ModelSpec.from_json(artifact.spec)
    limit = ask.max_tokens if ask.max_tokens is not None else min(DEFAULT_TOKENS, _room(spec, len(ids)))
    request = Request(tuple(ids), ask.sampling, StopConditions(max_tokens=limit, strings=ask.stop))
    engine = Engine(executor, blocks=pool_blocks(spec, request, ask.kv_tokens), tokenizer=tokenizer)
    with engine.stream(request) as stream:
        final = _follow(stream, lambda: engine.cancel(stream.request_id), silent=as_json)
    data = statistics(final, meter.peak())
    if as_json:
        print_json({"text": final.text, "tokens": list(final.tokens), **data})
    else:
        _tell(data)
    return INTERRUPTED if final.reason == "cancelled" else 0


def encode(tokenizer: Tokenizer, template: ChatTemplate | None, ask: Ask) -> list[int]:
    """Token ids of the prompt. Raises BadPrompt (the template refuses it), NotATextModel (there is none)."""
    if ask.raw or template is None:
        if ask.system is not None:
            why = "--raw leaves the chat template out" if ask.raw else "the model has no chat template"
            raise NotATextModel(
                f"a system message needs a chat template, and {why}", hint="put it into the prompt"
            )
        return tokenizer.encode(ask.prompt)
    system = [{"role": "system", "content": ask.system}] if ask.system is not None else []
    text = template.render([*system, {"role": "user", "content": ask.prompt}])
    return tokenizer.encode(text, add_special=False)


def _room(spec: ModelSpec, prompt: int) -> int:
    room = spec.max_context - prompt
    if room < 1:
        raise PromptTooLong(
            f"the prompt has {prompt} tokens, the context {spec.max_context}",
            hint=f"shorten the prompt to fewer than {spec.max_context} tokens",
        )
    return room


def pool_blocks(spec: ModelSpec, request: Request, kv_tokens: int | None) -> int:
    """KV blocks: as many as `kv_tokens` fill, else what the request can need."""
    if kv_tokens is not None:
        return max(1, kv_tokens // spec.block_size)
    wanted = len(request.prompt) + request.stop.max_tokens
    return spec.blocks_for(min(wanted, spec.max_context))


def _follow(stream: Stream, cancel: Any, silent: bool) -> FinishedEvent:
    """Print the text as it comes. After Ctrl-C the final event holds the answer so far."""
    from optcc.runtime import TokenEvent

    while True:
        try:
            for event in stream:
                if not isinstance(event, TokenEvent):
                    if not silent:
                        click.echo()
                    return event
                if not silent and event.text:
                    click.echo(event.text, nl=False)
        except KeyboardInterrupt:
            cancel()  # the stream goes on with the event that ends it


def statistics(final: FinishedEvent, peak_bytes: int) -> dict[str, Any]:
    """Counts and timings of an answer, in seconds."""
    timing = final.timing
    gaps = timing.inter_token
    return {
        "reason": final.reason,
        "prompt_tokens": final.prompt_tokens,
        "new_tokens": len(final.tokens),
        "time_to_first_token": timing.time_to_first_token,
        "inter_token_mean": sum(gaps) / len(gaps) if gaps else None,
        "inter_token_max": max(gaps, default=None),
        "tokens_per_second": len(gaps) / sum(gaps) if gaps else None,
        "peak_bytes": peak_bytes,
    }


def _tell(data: dict[str, Any]) -> None:
    first, mean, rate = data["time_to_first_token"], data["inter_token_mean"], data["tokens_per_second"]
    parts = [f"{data['prompt_tokens']} + {data['new_tokens']} tokens"]
    parts += [f"first after {human_seconds(first)}"] if first is not None else []
    parts += [f"then {mean * 1000:.1f} ms each", f"{rate:.1f} tokens/s"] if mean and rate else []
    parts += [f"peak memory {human_bytes(data['peak_bytes'])}", _ENDS[data["reason"]]]
    click.echo(click.style(" · ".join(parts), dim=True), err=True)
