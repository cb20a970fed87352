"""Calling an artifact that is a function: named arrays in an .npz file in, named arrays out."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from optcc.cli.common import print_json, print_pairs
from optcc.cli.opening import open_function
from optcc.errors import NotATextModel
from optcc.files import write_atomic

if TYPE_CHECKING:
    import numpy.typing as npt

    from optcc.artifact import Artifact


def call_function(artifact: Artifact, inputs: Path, out: Path, threads: int | None, as_json: bool) -> None:
    """Run the function once and write its outputs.

    Raises:
        NotATextModel: the artifact generates text.
        CannotWrite: `out` can't be written.
    """
    import numpy as np

    if artifact.kind == "decoder":
        raise NotATextModel(
            "the artifact generates text; --inputs is for functions",
            hint=f'optcc run {artifact.root} "PROMPT"',
        )
    arrays = read_inputs(inputs, artifact.spec["inputs"])
    results = open_function(artifact, threads).call(arrays)
    buffer = io.BytesIO()
    np.savez(buffer, **results)  # type: ignore[arg-type]
    write_atomic(out, buffer.getvalue())
    shapes = {
        name: {"dtype": str(value.dtype), "shape": list(value.shape)} for name, value in results.items()
    }
    if as_json:
        print_json({"out": str(out), "outputs": shapes})
        return
    click.echo(f"{out}")
    print_pairs(
        (name, f"{value.dtype}[{', '.join(map(str, value.shape))}]") for name, value in results.items()
    )


def _as_type(value: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any] | None:
    """The array as another type, None where that would change what it holds by more than rounding."""
    import numpy as np

    if value.dtype.kind not in "biuf":
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        typed = value.astype(dtype)
    close = np.allclose(typed, value, rtol=1e-3, atol=0.0, equal_nan=True)
    return typed if close and (typed.dtype.kind == "f" or np.array_equal(typed, value)) else None


def read_inputs(path: Path, wanted: dict[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an .npz file, cast to the types the function takes where that keeps their values.

    A file that doesn't fit is a usage error that says what is expected.
    """
    import numpy as np

    expected = ", ".join(f"{name} {entry['type']}" for name, entry in wanted.items())
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise click.BadParameter(
            f"{path} is no .npz file of arrays ({error})", param_hint="--inputs"
        ) from error
    if found.keys() != wanted.keys():
        raise click.BadParameter(
            f"{path} holds {', '.join(found)}; expected {expected}", param_hint="--inputs"
        )
    arrays = {}
    for name, value in found.items():
        typed = _as_type(value, wanted[name]["dtype"])
        if typed is None:
            message = f"{name} is {value.dtype}, which doesn't fit; expected {expected}"
            raise click.BadParameter(message, param_hint="--inputs")
        arrays[name] = typed
    return arrays
