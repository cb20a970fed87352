"""The block pool: random sequences of calls against a plain model of it, books checked after each."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from optcc.runtime import BlockPool, PoolCorrupt

SIZE = 7


class PoolMachine(RuleBasedStateMachine):
    """Tables come, are shared, and go, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(SIZE)
        self.tables: list[list[int]] = []

    @rule(count=st.integers(0, SIZE + 1))
    def allocate(self, count: int) -> None:
        free = self.pool.free_count
        ids = self.pool.allocate(count)
        if count > free:
            assert ids is None
            assert self.pool.free_count == free
        else:
            assert ids is not None
            assert len(set(ids)) == count
            assert not set(ids) & {block for table in self.tables for block in table}
            self.tables.append(ids)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        table = data.draw(st.sampled_from(self.tables))
        prefix = table[: data.draw(st.integers(0, len(table)))]
        self.pool.share(prefix)
        self.tables.append(list(prefix))

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.pool.release(self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1))))

    @rule(block=st.integers(0, SIZE - 1))
    def refuse_to_release_too_often(self, block: int) -> None:
        held = self.pool.references(block)
        with pytest.raises(PoolCorrupt, match=f"block {block} is released {held + 1}x"):
            self.pool.release([block] * (held + 1))
        if held == 0:
            with pytest.raises(PoolCorrupt, match="nobody holds"):
                self.pool.share([block])

    @invariant()
    def books_balance(self) -> None:
        self.pool.check(self.tables)
        held = Counter(block for table in self.tables for block in table)
        assert self.pool.free_count == SIZE - len(held)


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True)


def test_order_is_deterministic_and_oldest_free_first() -> None:
    pool = BlockPool(4)
    assert pool.allocate(3) == [0, 1, 2]
    pool.release([1, 0])
    assert pool.allocate(3) == [3, 1, 0]


def test_a_refused_release_changes_nothing() -> None:
    pool = BlockPool(4)
    pool.allocate(2)
    with pytest.raises(PoolCorrupt):
        pool.release([0, 1, 1])
    pool.check([[0, 1]])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda pool: pool._free.append(3), "twice"),
        (lambda pool: pool._free.append(0), "and is free"),
        (lambda pool: pool._free.pop(), "not free"),
        (lambda pool: pool._references.__setitem__(0, -1), "-1 holders"),
        (lambda pool: pool._references.__setitem__(0, 2), "disagree"),
        (lambda pool: pool._free.append(9), "outside"),
    ],
)
def test_check_finds_damage(damage, message: str) -> None:
    pool = BlockPool(4)
    pool.allocate(1)
    pool.check([[0]])
    damage(pool)
    with pytest.raises(PoolCorrupt, match=message):
        pool.check([[0]])


def test_check_finds_a_leak() -> None:
    pool = BlockPool(4)
    pool.allocate(2)
    with pytest.raises(PoolCorrupt, match=r"\{1: \(1, 0\)\}"):
        pool.check([[0]])
    with pytest.raises(ValueError, match="-1"):
        pool.allocate(-1)
