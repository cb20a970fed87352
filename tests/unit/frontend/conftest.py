"""Shared by the front end's tests: running a captured program, and ragged batches to run it on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from optcc.frontend import CapturedProgram

Evaluate = Callable[[CapturedProgram, Mapping[str, Tensor]], Tensor]


def _evaluate(program: CapturedProgram, inputs: Mapping[str, Tensor]) -> Tensor:
    arguments = []
    for node in program.exported.graph.nodes:
        if node.op != "placeholder":
            continue
        if node.name in inputs:
            arguments.append(inputs[node.name])
        elif node.name in program.placeholders:
            arguments.append(program.weights[program.placeholders[node.name]].load())
        else:
            assert not node.users, f"{node.name} is used and has no value"
            arguments.append(None)
    with torch.no_grad():
        results = torch.fx.Interpreter(program.exported.graph_module).run(*arguments)
    assert isinstance(results, tuple | list)
    first = results[0]
    assert isinstance(first, Tensor)
    return first


@pytest.fixture
def evaluate() -> Evaluate:
    """Run a captured program with the references of its operators; returns the first result."""
    return _evaluate


def _ragged(texts: list[Tensor], rows: list[int] | None = None) -> dict[str, Tensor]:
    lengths = [len(text) for text in texts]
    return {
        "input_ids": torch.cat(texts),
        "position_ids": torch.cat([torch.arange(length) for length in lengths]),
        "query_starts": torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32),
        "logit_rows": torch.arange(sum(lengths)) if rows is None else torch.tensor(rows),
    }


@pytest.fixture
def ragged() -> Callable[..., dict[str, Tensor]]:
    """The inputs of one step for whole texts; `rows` selects logits, all of them if not given."""
    return _ragged
