"""Operators x backends: every case at every size against the interpreter."""

from __future__ import annotations

from pathlib import Path

import pytest

from optcc.backends.registry import backend_names, load_backend
from tests.conformance.cases import CASES
from tests.conformance.harness import (
    SIZES,
    Case,
    assert_close,
    draw_inputs,
    expected,
    module_of,
    open_function,
)
from tests.conformance.quantized_cases import QUANTIZED
from tests.conformance.refused import REFUSED, Refused
from tests.conformance.spellings import SPELLINGS
from tests.conformance.static_cases import STATIC

ALL = [*CASES, *QUANTIZED, *STATIC, *SPELLINGS]


@pytest.mark.parametrize("backend", backend_names())
@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_case(case: Case, backend: str, tmp_path: Path) -> None:
    module = module_of(case)
    function = open_function(module, backend, tmp_path)
    for seed, sizes in enumerate(SIZES):
        inputs = draw_inputs(case, module, sizes, seed)
        found = function.call({name: value.numpy() for name, value in inputs.items()})
        assert_close(found, expected(module, inputs), 0 if backend == "reference" else case.tolerance)


@pytest.mark.parametrize("refused", REFUSED, ids=lambda refused: refused.case.name)
def test_refused_with_its_reason(refused: Refused) -> None:
    """What a backend can't do, it says before any weight is read. One that learns it makes this fail."""
    module = module_of(refused.case)
    backend = load_backend(refused.backend)
    reasons = [reason for node in module.nodes() if (reason := backend.supports(node, module))]
    assert len(reasons) == 1
    assert refused.reason in reasons[0]


def test_every_lowering_has_a_case() -> None:
    from optcc.backends.onnxruntime.lower import families  # noqa: F401 - fills the table
    from optcc.backends.onnxruntime.lower.registry import RULES
    from optcc.ir.text import target_name

    tried = {target_name(n) for case in ALL for n in module_of(case).nodes() if n.op == "call_function"}
    elsewhere = {f"optcc.{name}attention.default" for name in ("", "paged_", "masked_")}
    assert set(RULES) - tried - elsewhere == set()
