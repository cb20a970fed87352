"""The KV block pool: ids and reference counts, no tensors.

A block is free (count 0) or held (count >= 1). Attention reads memory that lies in order faster than the same pages
anywhere (`benchmarks.cpu.context`), so a request gets the blocks behind its last one while they are free, and starts
where a whole run of blocks is free: what others take is taken elsewhere. That only orders them: while there is any free
block, it is given. What became free first is handed out first, so that the same calls always give the same ids. Block 0
is a block like any other: the padding of a block table is never read.

Like the reservation windows of file systems: Cao et al., State of the Art: Where we are with the Ext3 filesystem, 2005.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from optcc.runtime.faults import PoolCorrupt

RUN = 16
"""Blocks that start a request when all of them are free: 48 kB of one pool of three KV heads, 64 wide, in int8."""


class BlockPool:
    """`blocks` blocks with ids 0..blocks-1, all free."""

    def __init__(self, blocks: int) -> None:
        if blocks < 1:
            raise ValueError(f"a pool needs at least one block, not {blocks}")
        self._references = [0] * blocks
        self._free: dict[int, None] = dict.fromkeys(range(blocks))
        self._free_in = [min(RUN, blocks - first) for first in range(0, blocks, RUN)]
        self._whole: dict[int, None] = dict.fromkeys(range(len(self._free_in)))

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

    def allocate(self, count: int, after: int | None = None) -> list[int] | None:
        """`count` free blocks, each held once; None, and nothing changed, when there aren't that many.

        Args:
            count: how many.
            after: the last block of whom they are for: they lie behind it where they can.
        """
        if count < 0:
            raise ValueError(f"can't allocate {count} blocks")
        if count > len(self._free):
            return None
        taken = []
        for _ in range(count):
            after = self._next(after)
            self._take(after)
            taken.append(after)
        return taken

    def _next(self, after: int | None) -> int:
        """The block behind, or the first of a run of free ones, or any."""
        if after is not None and after + 1 in self._free:
            return after + 1
        if self._whole:
            return next(iter(self._whole)) * RUN
        return next(iter(self._free))

    def _take(self, block: int) -> None:
        del self._free[block]
        self._references[block] = 1
        self._free_in[block // RUN] -= 1
        self._whole.pop(block // RUN, None)

    def _give_back(self, block: int) -> None:
        run = block // RUN
        self._free[block] = None
        self._free_in[run] += 1
        if self._free_in[run] == min(RUN, self.size - run * RUN):
            self._whole[run] = None

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
                self._give_back(block)

    def check(self, tables: Iterable[Sequence[int]] | None = None) -> None:
        """Raise PoolCorrupt unless the books balance. Slow; for tests and debugging.

        Holds: no negative count, free exactly when the count is 0, runs know how many of theirs are free. With
            `tables`, the block tables of all holders: every count equals the number of times the block occurs in them
            (no leak, no stray reader).
        """
        for block, count in enumerate(self._references):
            if count < 0:
                raise PoolCorrupt(f"block {block} has {count} holders")
            if (count == 0) != (block in self._free):
                raise PoolCorrupt(
                    f"block {block} has {count} holders and is {'' if block in self._free else 'not '}free"
                )
        if any(not 0 <= block < self.size for block in self._free):
            raise PoolCorrupt("free blocks have ids outside the pool")
        for run, known in enumerate(self._free_in):
            blocks = range(run * RUN, min((run + 1) * RUN, self.size))
            free = sum(block in self._free for block in blocks)
            if known != free or (run in self._whole) != (free == len(blocks)):
                raise PoolCorrupt(
                    f"{free} of the blocks {blocks.start} to {blocks.stop - 1} are free, not {known}"
                )
        if tables is not None:
            seen = Counter(block for table in tables for block in table)
            wrong = {b: (c, seen[b]) for b, c in enumerate(self._references) if c != seen[b]}
            if wrong:
                raise PoolCorrupt(f"holders and tables disagree, {{block: (holders, in tables)}}: {wrong}")
