"""Turning an export failure into one the user can act on: the operator, their own source line, what to do."""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from types import TracebackType

from torch._subclasses.fake_tensor import UnsupportedFakeTensorException, UnsupportedOperatorException

from optcc.errors import AttentionCount, CaptureFailed, OptccError

_PLUMBING = (
    "/torch/",
    "/optcc/frontend/",
    "/optcc/ir/",
    "/transformers/utils/",
    "/transformers/modeling_layers.py",
    "/transformers/masking_utils.py",
    "/contextlib.py",
    "/transformers/integrations/",
)
_STACK_LINE = re.compile(r'File "([^"]+)", line (\d+), in (\w+)')
_MASK = "'Visibility'"  # what a model that uses the mask itself, as if it were a tensor, complains about
_OPERATOR = re.compile(r"\b((?:aten|torch\.ops|prims|optcc)[.:][\w.:]+)")


def capture_error(error: Exception, subject: str) -> OptccError:
    """The error to raise for an exception out of `torch.export`; one of optcc's own is passed through."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OptccError):
            return cause
        cause = cause.__cause__ or cause.__context__
    text = str(error)
    if _MASK in text:
        return AttentionCount(
            f"{subject} computes attention itself, not through transformers' attention interface",
            where=source_line(error),
            hint="wrap the model in a factory: a plain function may hold any attention",
        )
    operator = _OPERATOR.search(text)
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    named = f"at operator {operator[1]}: " if operator and operator[1] not in first else ""
    return CaptureFailed(
        f"{subject} can't be turned into a graph: {named}{first[:300].rstrip('.')}",
        where=source_line(error),
        hint=_hint(error, text),
    )


def source_line(error: BaseException) -> str | None:
    """`file:line (function)` of the innermost frame that is the model's own code."""
    found = _own_frame(error.__traceback__)
    if found is None:
        # Errors raised after tracing carry the model's stack in their text, innermost call last.
        lines = [m for m in _STACK_LINE.findall(str(error)) if not _is_plumbing(m[0])]
        found = lines[-1] if lines else None
    cause = error.__cause__ or error.__context__
    if found is None and cause is not None:
        return source_line(cause)
    return None if found is None else f"{_short(found[0])}:{found[1]} ({found[2]})"


def _own_frame(trace: TracebackType | None) -> tuple[str, str, str] | None:
    frames = [f for f in traceback.extract_tb(trace) if not _is_plumbing(f.filename)]
    # The caller's frames come first and belong to whoever called optcc; the model's own follow a frame of
    # torch.
    inside = False
    own: tuple[str, str, str] | None = None
    for frame in traceback.extract_tb(trace):
        inside = inside or "/torch/" in frame.filename
        if inside and frame in frames and not frame.filename.startswith("<"):
            own = (frame.filename, str(frame.lineno), frame.name)
    return own


def _is_plumbing(filename: str) -> bool:
    name = filename.replace("\\", "/")
    return any(part in name for part in _PLUMBING)


def _short(filename: str) -> str:
    path = Path(filename)
    if "site-packages" in path.parts:
        return "/".join(path.parts[path.parts.index("site-packages") + 1 :])
    return str(path)


def _hint(error: Exception, text: str) -> str:
    low = text.lower()
    if "data-dependent" in low or "data dependent" in low:
        return "it branches on a tensor's value: use torch.where, or decide from shapes and configuration"
    if "constraint" in low or "specialized" in low:
        return "a dimension declared as variable is fixed by the model: take it out of the dynamic dimensions"
    if (
        isinstance(error, UnsupportedFakeTensorException | UnsupportedOperatorException)
        or "register_fake" in low
    ):
        return "the operator has no shape rule: torch.library.register_fake adds one"
    return "rewrite this line with plain tensor operations, or wrap the part you need in a factory"


def stack_source(stack: str | None) -> str | None:
    """`file:line` of the innermost call in a node's stack trace that is the model's own code."""
    own = [m for m in _STACK_LINE.findall(stack or "") if not _is_plumbing(m[0])]
    return f"{_short(own[-1][0])}:{own[-1][1]}" if own else None
