"""The block pool: random sequences of calls against a plain model of it, books checked after each."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from optcc.runtime import BlockPool, PoolCorrupt
from optcc.runtime.blocks import RUN

SIZE = 3 * RUN + 2


class PoolMachine(RuleBasedStateMachine):
    """Tables come, are shared, and go, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(SIZE)
        self.tables: list[list[int]] = []

    @rule(count=st.integers(0, SIZE + 1), data=st.data())
    def allocate(self, count: int, data: st.DataObject) -> None:
        free = self.pool.free_count
        after = data.draw(st.none() | st.integers(0, SIZE - 1))
        follows = after is not None and after + 1 < SIZE and not self.pool.references(after + 1)
        ids = self.pool.allocate(count, after)
        if count > free:
            assert ids is None
            assert self.pool.free_count == free
        else:
            assert ids is not None
            assert len(set(ids)) == count
            assert not set(ids) & {block for table in self.tables for block in table}
            assert not (follows and ids and after is not None) or ids[0] == after + 1
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


def test_requests_grow_in_runs_of_their_own() -> None:
    pool = BlockPool(2 * RUN + 4)
    first, second = pool.allocate(2), pool.allocate(2)
    assert first is not None and second is not None
    for _ in range(RUN):
        for table in (first, second):
            table += pool.allocate(1, table[-1]) or []
    # The first ends where the second begins and takes the last run; the second then gets what is left of that.
    assert first[:RUN] == list(range(RUN)) and second[:RUN] == list(range(RUN, 2 * RUN))
    assert sorted(first[RUN:] + second[RUN:]) == list(range(2 * RUN, 2 * RUN + 4))
    pool.check([first, second])


def test_every_block_is_given_before_none_is() -> None:
    pool = BlockPool(3 * RUN)
    held = [pool.allocate(1) for _ in range(3 * RUN)]
    assert sorted(table[0] for table in held if table) == list(range(3 * RUN))
    assert pool.allocate(1) is None and pool.allocate(1, 5) is None


def test_a_refused_release_changes_nothing() -> None:
    pool = BlockPool(4)
    pool.allocate(2)
    with pytest.raises(PoolCorrupt):
        pool.release([0, 1, 1])
    pool.check([[0, 1]])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda pool: pool._free.__setitem__(0, None), "and is free"),
        (lambda pool: pool._free.popitem(), "not free"),
        (lambda pool: pool._free_in.__setitem__(0, 2), "3 of the blocks 0 to 3 are free, not 2"),
        (lambda pool: pool._whole.__setitem__(0, None), "3 of the blocks"),
        (lambda pool: pool._references.__setitem__(0, -1), "-1 holders"),
        (lambda pool: pool._references.__setitem__(0, 2), "disagree"),
        (lambda pool: pool._free.__setitem__(9, None), "outside"),
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
