"""Another module over an artifact's weights, lowered and run once."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from optcc.artifact.weights import SafetensorsIndex, Span
from optcc.backends.onnxruntime.lower.emit import WEIGHTS
from optcc.backends.onnxruntime.lower.graph import lower
from optcc.backends.onnxruntime.session import MODEL, open_session
from optcc.ir.module import Module


def evaluate(
    module: Module, root: Path, inputs: Mapping[str, npt.NDArray[Any]], threads: int
) -> dict[str, npt.NDArray[Any]]:
    """Results by name.

    Raises:
        UnsupportedOp: an operator has no lowering.
        IncompatibleArtifact: ONNX Runtime refuses the graph.
    """
    index = SafetensorsIndex.open(root / WEIGHTS)
    spans = {name: Span(info.offset, info.nbytes) for name, info in index.tensors.items()}
    # External data must lie beside the graph and be no symbolic link, so the weights are linked or copied there.
    with tempfile.TemporaryDirectory(prefix=".optcc-evaluate-", dir=root.parent) as folder:
        place = Path(folder)
        try:
            os.link(root / WEIGHTS, place / WEIGHTS)
        except OSError:
            shutil.copyfile(root / WEIGHTS, place / WEIGHTS)
        (place / MODEL).write_bytes(lower(module, spans, inputs_as_they_are=True))
        session = open_session(place, threads)
        known = {value.name for value in session.get_inputs()}
        names = list(module.output_names())
        found = session.run(names, {name: value for name, value in inputs.items() if name in known})
    return dict(zip(names, found, strict=True))
