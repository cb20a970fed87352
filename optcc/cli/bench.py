"""`optcc bench`: how fast an artifact is on this machine, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from optcc.cli.common import common_options, human_bytes, print_json
from optcc.cli.options import force_option, threads_option


@click.group("bench", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Measure how fast an artifact is."""


@command.command("offline")
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--requests", type=click.IntRange(min=1), default=4, show_default=True, help="How many at a time."
)
@click.option(
    "--prompt-tokens", type=click.IntRange(min=1), default=128, show_default=True, help="Of each prompt."
)
@click.option(
    "--new-tokens", type=click.IntRange(min=2), default=64, show_default=True, help="Of each answer."
)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="After a warm-up.")
@threads_option
@force_option
@common_options
def offline(
    directory: Path,
    requests: int,
    prompt_tokens: int,
    new_tokens: int,
    rounds: int,
    threads: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Time the artifact in DIR on prompts of random tokens, through the engine that `optcc run` uses.

    Prefill and decode are those of one request alone; throughput is of all requests at once. Every figure is
    the median of the rounds, with their range.
    """
    from optcc.cli.measure import Load, measure
    from optcc.cli.opening import open_running, thread_count
    from optcc.cli.progress import progress

    artifact, executor = open_running(directory, force, threads)
    try:
        with progress(quiet=as_json) as watch:
            watch.stage("bench")
            found = measure(executor, Load(requests, prompt_tokens, new_tokens, rounds), watch.step)
    finally:
        executor.close()
    count = thread_count(artifact, threads)
    backend = str(artifact.manifest.target["backend"])
    if as_json:
        print_json({"artifact": str(directory), "backend": backend, "threads": count, **found})
        return
    _tell(f"{directory} on {backend}, {count} threads", found)


def _tell(title: str, data: dict[str, Any]) -> None:
    from optcc.cli.display import console, human_rate, human_seconds, new_table, section

    screen = console()
    table = new_table("", ">median", ">lowest", ">highest")
    rates = (
        ("prefill", f"prefill tokens/s, one prompt of {data['load']['prompt_tokens']}"),
        ("decode", f"decode tokens/s, one answer of {data['load']['new_tokens']}"),
        ("throughput", f"generated tokens/s, {data['load']['requests']} requests at once"),
    )
    for key, name in rates:
        table.add_row(name, *(human_rate(data[key][part]) for part in ("median", "low", "high")))
    waits = (("time_to_first_token", "first token"), ("inter_token", "between tokens"))
    for key, name in waits:
        for part in ("p50", "p99"):
            row = data[key][part]
            told = f"{name}, {part} of {data['load']['requests']} requests at once"
            table.add_row(told, *(human_seconds(row[p]) for p in ("median", "low", "high")))
    screen.print()
    section(screen, title, table)
    rounds, peak = data["load"]["rounds"], human_bytes(data["peak_bytes"])
    screen.print(f"median of {rounds} rounds; peak memory {peak}", style="dim")


@command.command("roofline")
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@threads_option
@force_option
@common_options
def roofline(directory: Path, threads: int | None, force: bool, as_json: bool) -> None:
    """Hold every operator of the artifact in DIR against the limits of this machine.

    The machine's read bandwidth and its rates of float32 and int8 products are measured; the best of a day
    count. The artifact's steps (1 and 16 requests that decode, a prompt of 512 tokens) are timed operator by operator.
    """
    from optcc.cli.opening import backend_of, open_artifact, require_decoder, thread_count
    from optcc.cli.progress import progress

    artifact = open_artifact(directory, force)
    require_decoder(artifact)
    backend, count = backend_of(artifact), thread_count(artifact, threads)
    with progress(quiet=as_json) as watch:
        watch.stage("bench")
        from optcc.compile.roofline import roofline as measure

        report = artifact.report()
        found = measure(
            artifact.root,
            artifact.spec,
            backend,
            count,
            speed=report.get("speed"),
            ledger=report.get("ledger"),
        )
    if as_json:
        print_json({"artifact": str(directory), "backend": backend.name, **found})
        return
    from optcc.cli.roofline import print_roofline

    print_roofline(found)
