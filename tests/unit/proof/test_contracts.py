"""Contracts: what passes declare, how they add up, how outputs are held to them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from optcc.accuracy.intervals import make_units
from optcc.compile.proof.measure import measure, moved
from optcc.pm import EXACT, Pass, build_pass, kl, load_pass, pass_ids, tolerance
from optcc.pm.contract import DEFAULT_TOLERANCE, joined

UNITS = make_units([[32]])


def _logits(seed: int, noise: float = 0.0) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn((32, 50), generator=generator)
    other = torch.randn((32, 50), generator=torch.Generator().manual_seed(seed))
    return [{"logits": values + noise * other}]


def test_every_built_in_pass_declares_one_and_quantizers_have_the_limit_of_their_scheme() -> None:
    for name in pass_ids():
        cls = load_pass(name)
        quantizes = name.startswith("quantize.") and name != "quantize.rotate"
        assert (cls.contract.kind == "kl") == quantizes, name
        assert any("contract" in c.__dict__ for c in cls.__mro__ if c is not Pass), name
    promised = build_pass("quantize.linear", {"scheme": "int8-g64-a8"}).promise(Path())
    assert promised.kind == "kl" and promised.bound is not None and 0 < promised.bound < 0.1
    assert build_pass("quantize.kv", {}).promise(Path()).bound == 0.002


def test_a_pass_of_somebody_else_promises_rounding_alone() -> None:
    class Other(Pass):
        pass

    assert Other().promise(Path()) == tolerance(DEFAULT_TOLERANCE)


def test_contracts_join_to_the_loosest_and_budgets_add_up() -> None:
    assert joined([EXACT, EXACT]) == EXACT
    assert joined([EXACT, tolerance(1e-3), tolerance(1e-3)]) == tolerance(2e-3)
    assert joined([tolerance(), kl(0.1), kl(0.2)]).bound == pytest.approx(0.3)
    assert joined([kl(0.1), kl()]) == kl()


def test_exact_means_to_the_bit() -> None:
    same, near = _logits(1), _logits(1, 1e-6)
    assert measure(EXACT, same, _logits(2), UNITS).outcome == "pass"
    assert measure(EXACT, same, near, UNITS).outcome == "fail"
    assert measure(tolerance(1e-4), same, near, UNITS).outcome == "pass"
    assert measure(tolerance(1e-9), same, near, UNITS).outcome == "fail"


def test_a_budget_has_an_interval_and_three_outcomes() -> None:
    same, far = _logits(1), _logits(1, 0.3)
    figure = measure(kl(1.0), same, far, UNITS)
    assert figure.metric == "kl" and figure.estimate.low < figure.estimate.value < figure.estimate.high
    assert figure.outcome == "pass"
    assert measure(kl(figure.estimate.low / 2), same, far, UNITS).outcome == "fail"
    assert measure(kl(figure.estimate.value), same, far, UNITS).outcome == "undecided"
    assert measure(kl(), same, far, UNITS).outcome == "measured"
    # log E_p[e^d] - E_p[d] in float64, the definition
    p, d = same[0]["logits"].double().softmax(-1), (far[0]["logits"] - same[0]["logits"]).double()
    expected = ((p * d.exp()).sum(-1).log() - (p * d).sum(-1)).mean()
    assert figure.estimate.value == pytest.approx(float(expected), rel=1e-4)


def test_nan_that_was_not_there_fails_and_nan_that_was_there_does_not() -> None:
    a, b = torch.tensor([1.0, math.nan, 3.0]), torch.tensor([1.0, 2.0, 3.0])
    assert moved(a, a) == 0.0
    assert math.isnan(moved(b, a))
    assert measure(tolerance(), [{"y": b}], [{"y": a}], None).outcome == "fail"
    infinite = torch.tensor([1.0, -math.inf, 3.0])
    assert moved(infinite, infinite.clone()) == 0.0


def test_functions_are_held_to_noise() -> None:
    x = torch.from_numpy(np.linspace(-1, 1, 100, dtype=np.float32))
    figure = measure(kl(0.01), [{"y": x}], [{"y": x * 1.05}], None)
    assert figure.metric == "noise" and figure.estimate.value == pytest.approx(0.0025, rel=1e-3)
    assert figure.outcome == "pass"
