"""Opening an ONNX Runtime session. Imports neither torch nor onnx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optcc.errors import BackendCompileFailed, BackendUnavailable

MODEL_FILE = "model.onnx"


def open_session(root: Path, threads: int) -> Any:
    """A CPU session over `model.onnx`, its weights mapped from the file beside it.

    Args:
        root: the artifact's directory.
        threads: 0 means one per physical core.

    Raises:
        BackendUnavailable: onnxruntime isn't installed.
        BackendCompileFailed: ONNX Runtime refuses the graph; its message is quoted.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise BackendUnavailable(
            "onnxruntime is not installed", hint="pip install 'optcc-compiler[onnxruntime]'"
        ) from error
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(root / MODEL_FILE), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BackendCompileFailed(f"ONNX Runtime refuses the graph: {error}", where=str(root / MODEL_FILE)) from error
