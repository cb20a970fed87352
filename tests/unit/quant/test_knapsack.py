"""The knapsack against every combination."""

from __future__ import annotations

import math
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from optcc.quant.knapsack import choose

_OPTION = st.tuples(st.integers(0, 50), st.integers(0, 20))
_ITEMS = st.lists(st.lists(_OPTION, min_size=1, max_size=4), min_size=1, max_size=5)


@given(_ITEMS, st.integers(1, 64))
def test_the_choice_is_the_best_of_all_within_the_limit(
    items: list[list[tuple[int, int]]], limit: int
) -> None:
    """Whole weights and a limit that divides the steps, so that nothing is lost by rounding."""
    limit = 1 << (limit.bit_length() - 1)
    costs = [[float(cost) for cost, _ in options] for options in items]
    weights = [[float(weight) for _, weight in options] for options in items]
    allowed = [
        sum(costs[i][o] for i, o in enumerate(picks))
        for picks in product(*(range(len(options)) for options in items))
        if sum(weights[i][o] for i, o in enumerate(picks)) <= limit
    ]
    found = choose(costs, weights, limit)
    if found is None:
        assert not allowed
    else:
        assert sum(weights[i][o] for i, o in enumerate(found)) <= limit
        assert sum(costs[i][o] for i, o in enumerate(found)) == min(allowed)


def test_a_limit_is_kept_when_weights_are_no_whole_steps() -> None:
    weights = [[0.001 * math.pi, 0.002 * math.e]] * 50
    limit = 0.25
    found = choose([[1.0, 0.0]] * 50, weights, limit)
    assert found is not None
    assert sum(weights[0][o] for o in found) <= limit
    most = int((limit - 50 * weights[0][0]) / (weights[0][1] - weights[0][0]))
    assert sum(found) == most


def test_a_limit_that_is_met_exactly_is_met() -> None:
    weights = [[math.pi * (i + 1), 7.0 * (i + 1)] for i in range(121)]
    lightest = sum(options[0] for options in weights)
    assert choose([[1.0, 0.0]] * 121, weights, lightest) == [0] * 121
    assert choose([[1.0, 0.0]] * 121, weights, lightest * 0.999) is None


def test_what_costs_infinitely_much_is_not_chosen() -> None:
    assert choose([[math.inf, 1.0]], [[0.0, 0.5]], 1.0) == [1]
    assert choose([[0.0, 1.0]], [[math.inf, 0.5]], 1.0) == [1]
