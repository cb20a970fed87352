"""The KV block pool: ids and reference counts, no tensors.

A block is free (count 0) or held (count >= 1). Free blocks are handed out in the order in which they became
free, so the same calls always give the same ids, and what was freed last stays untouched longest (which is
what a prefix cache will want). Block 0 is a block like any other: the padding of a block table is never read.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence

from optcc.runtime.faults import PoolCorrupt


class BlockPool:
    """`blocks` blocks with ids 0..blocks-1, all free."""

    def __init__(self, blocks: int) -> None:
        if blocks < 1:
            raise ValueError(f"a pool needs at least one block, not {blocks}")
        self._references = [0] * blocks
        self._free = deque(range(blocks))

    @property
    def size(self) -> int:
        """Blocks in the pool, free or held."""
        return len(self._references)

    @property
    def free_count(self) -> int:
        """Blocks that `allocate` could hand out now."""
        return len(self._free)

    def references(self, block: int) -> int:
        """How many holders the block has; 0 is free."""
        return self._references[block]

    def allocate(self, count: int) -> list[int] | None:
        """`count` free blocks, each held once; None, and nothing changed, when there aren't that many."""
        if count < 0:
            raise ValueError(f"can't allocate {count} blocks")
        if count > len(self._free):
            return None
        taken = [self._free.popleft() for _ in range(count)]
        for block in taken:
            self._references[block] = 1
        return taken

    def share(self, ids: Sequence[int]) -> None:
        """One more holder for each id (twice in `ids` counts twice). Raises PoolCorrupt if one is free."""
        for block in ids:
            if self._references[block] < 1:
                raise PoolCorrupt(f"block {block} is shared but nobody holds it")
        for block in ids:
            self._references[block] += 1

    def release(self, ids: Sequence[int]) -> None:
        """One holder less for each id; the last one frees it.

        Raises PoolCorrupt, and changes nothing, when a block has fewer holders than are released.
        """
        for block, times in Counter(ids).items():
            if self._references[block] < times:
                raise PoolCorrupt(f"block {block} is released {times}x but held {self._references[block]}x")
        for block in ids:
            self._references[block] -= 1
            if self._references[block] == 0:
                self._free.append(block)

    def check(self, tables: Iterable[Sequence[int]] | None = None) -> None:
        """Raise PoolCorrupt unless the books balance. Slow; for tests and debugging.

        Holds: no negative count, no id free twice, free exactly when the count is 0. With `tables`, the block
        tables of all holders: every count equals the number of times the block occurs in them (no leak, no
            stray reader).
        """
        free = Counter(self._free)
        twice = [block for block, times in free.items() if times > 1]
        if twice:
            raise PoolCorrupt(f"blocks {twice} are on the free list twice")
        for block, count in enumerate(self._references):
            if count < 0:
                raise PoolCorrupt(f"block {block} has {count} holders")
            if (count == 0) != (block in free):
                raise PoolCorrupt(
                    f"block {block} has {count} holders and is {'' if block in free else 'not '}free"
                )
        if len(free) > self.size or any(not 0 <= block < self.size for block in free):
            raise PoolCorrupt("the free list holds ids outside the pool")
        if tables is not None:
            seen = Counter(block for table in tables for block in table)
            wrong = {b: (c, seen[b]) for b, c in enumerate(self._references) if c != seen[b]}
            if wrong:
                raise PoolCorrupt(f"holders and tables disagree, {{block: (holders, in tables)}}: {wrong}")
