"""`optcc run`: text from an artifact, or the outputs of a function for given inputs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from optcc.cli.common import common_options
from optcc.cli.options import force_option, threads_option

if TYPE_CHECKING:
    from optcc.runtime import SamplingParams

DEFAULT_TOKENS = 256


@dataclass(frozen=True)
class Ask:
    """What the command line asks of a decoder."""

    prompt: str
    raw: bool
    system: str | None
    max_tokens: int | None
    sampling: SamplingParams
    stop: tuple[str, ...]
    kv_tokens: int | None


@click.command("run")
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.argument("prompt", required=False)
@click.option("--raw", is_flag=True, help="Continue the prompt as it is, without the chat template.")
@click.option("--system", help="System message before the prompt.")
@click.option(
    "--max-tokens", type=int, help="Most tokens to generate. [default: 256, or what the context leaves]"
)
@click.option(
    "--temperature", type=float, default=0.0, show_default=True, help="0 always takes the likeliest token."
)
@click.option(
    "--top-k", type=int, default=0, show_default=True, help="Choose among the k likeliest; 0 is off."
)
@click.option(
    "--top-p", type=float, default=1.0, show_default=True, help="Choose among the likeliest with this share."
)
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same text.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End the answer where this text would begin.")
@click.option(
    "--kv-tokens", type=click.IntRange(min=1), help="Tokens the KV pool holds. [default: as many as needed]"
)
@click.option(
    "--inputs", type=click.Path(path_type=Path), help="Functions: an .npz file with an array for each input."
)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Functions: the .npz file to write.")
@threads_option
@force_option
@common_options
def command(
    directory: Path,
    prompt: str | None,
    raw: bool,
    system: str | None,
    max_tokens: int | None,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    stop: tuple[str, ...],
    kv_tokens: int | None,
    inputs: Path | None,
    out: Path | None,
    threads: int | None,
    force: bool,
    as_json: bool,
) -> int:
    """Generate text with the artifact in DIR.

    PROMPT is put into the model's chat template if it has one. Without PROMPT, or with `-`, it is read from
    stdin. The answer goes to stdout as it is made, timings to stderr.

    An artifact that is a function (an encoder, say) takes --inputs and -o instead of a prompt.
    """
    from optcc.cli.opening import open_artifact, open_running
    from optcc.memory import MemoryMeter
    from optcc.runtime import SamplingParams

    sampling = SamplingParams(temperature, top_k, top_p, seed)
    if inputs is not None or out is not None:
        from optcc.cli.call import call_function

        if inputs is None or out is None or prompt is not None:
            raise click.UsageError("a function takes --inputs and -o together, and no prompt")
        call_function(open_artifact(directory, force), inputs, out, threads, as_json)
        return 0
    from optcc.cli.generate import generate

    meter = MemoryMeter()
    artifact, executor = open_running(directory, force, threads)
    try:
        ask = Ask(_prompt(prompt), raw, system, max_tokens, sampling, stop, kv_tokens)
        return generate(artifact, executor, ask, meter, as_json)
    finally:
        executor.close()


def _prompt(given: str | None) -> str:
    """The prompt, from stdin where none or `-` is given; one line end at its end is not part of it."""
    if given is not None and given != "-":
        return given
    if sys.stdin.isatty():
        click.echo("Type the prompt; Ctrl-D ends it.", err=True)
    return sys.stdin.read().removesuffix("\n")
