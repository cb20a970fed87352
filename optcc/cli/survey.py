"""What preflight found, as a person reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from optcc.cli.common import human_bytes, print_pairs
from optcc.cli.display import human_seconds

if TYPE_CHECKING:
    from optcc.compile.prediction import Context, Prediction
    from optcc.compile.survey import Survey


def tell_survey(found: Survey, target: str) -> None:
    """Notes and prediction of a model that nothing stands in the way of."""
    prediction = found.prediction
    click.echo(f"\npreflight{f' of {prediction.model}' if prediction else ''}: nothing stands in the way")
    if prediction:
        print_pairs(_rows(prediction))
    if prediction and prediction.context:
        click.echo(f"\nserving on {target}")
        print_pairs(_serving(prediction.context))
    for note in found.notes:
        click.echo(f"\nnote: {note}")


def _rows(found: Prediction) -> list[tuple[str, str]]:
    captured, artifact = human_bytes(found.captured_bytes), human_bytes(found.artifact_bytes)
    ratio = found.captured_bytes / max(found.artifact_bytes, 1)
    smaller = f", {ratio:.2f}x smaller" if ratio > 1 else ""
    at = max(found.stages, key=lambda stage: found.stages[stage].anonymous)
    parts = ", ".join(f"{stage} {human_seconds(s)}" for stage, s in found.seconds.items())
    return [
        ("weights", f"{captured} as captured, {found.quantized} tensors to be quantized"),
        ("artifact", f"{artifact}{smaller}"),
        ("memory", f"{human_bytes(found.peak.anonymous)} at the peak, in {at}: {found.how[at]}"),
        (
            "",
            f"{human_bytes(found.peak.resident)} with pages of mapped files, which the system may take back",
        ),
        ("disk", f"{human_bytes(found.disk_bytes)} while compiling"),
        ("time", f"estimated {human_seconds(sum(found.seconds.values()))} after this: {parts}"),
    ]


def _serving(found: Context) -> list[tuple[str, str]]:
    memory, serving = human_bytes(found.memory_bytes), human_bytes(found.serving_bytes)
    enough = "as long as the model allows" if found.longest == found.limit else "all that fits"
    return [
        ("KV cache", f"{human_bytes(found.token_bytes)} a token"),
        ("context", f"{found.longest:,} tokens, {enough}; the model's limit is {found.limit:,}"),
        (
            "in all",
            f"{found.fits:,} tokens of all requests in {memory} beside an estimated {serving} for the artifact",
        ),
    ]
