"""Paged attention over any schedule against stateless attention of whole texts, and the other forms."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optcc.backends.registry import backend_names, load_backend
from optcc.ir.interpret import interpret
from optcc.runtime.executor import Executor
from tests.conformance.decoder import (
    BLOCK,
    INPUTS,
    SHAPES,
    Play,
    Shape,
    Step,
    move_blocks,
    paged,
    spec_of,
    stateless,
    texts_of,
)
from tests.conformance.harness import (
    SIZES,
    Case,
    assert_close,
    build,
    draw_inputs,
    expected,
    module_of,
    open_function,
)

BAR = 1e-5
Q: Any = torch.ops.optcc


@pytest.fixture(scope="module")
def opened(lowering: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """`opened(shape, backend)`: an executor of the decoder, compiled once for all tests."""
    made: dict[tuple[Shape, str, int], Executor] = {}

    def get(shape: Shape, backend: str, block: int = BLOCK) -> Executor:
        key = (shape, backend, block)
        if key not in made:
            root = tmp_path_factory.mktemp("decoder")
            build(paged(shape, block), backend, root)
            made[key] = load_backend(backend).open_decoder(root, spec_of(shape, block), 1)
        return made[key]

    yield get
    for executor in made.values():
        executor.close()


@cache
def whole_text(shape: Shape, ids: tuple[int, ...]) -> np.ndarray:
    """Logits of every token, the text alone in one stateless step."""
    count = len(ids)
    inputs = (
        torch.tensor(ids),
        torch.arange(count),
        torch.tensor([0, count], dtype=torch.int32),
        torch.arange(count),
    )
    return interpret(_stateless(shape), dict(zip(INPUTS, inputs, strict=True)))["logits"].numpy()


_stateless = cache(stateless)

SCHEDULES: dict[str, tuple[tuple[int, ...], list[Step]]] = {
    "one-token": ((1,), [{0: 1}]),
    "whole": ((13,), [{0: 13}]),
    "decode": ((6,), [{0: 1}] * 6),
    "chunks": ((14,), [{0: 5}, {0: 4}, {0: 1}, {0: 4}]),
    "batch": ((9, 4, 1), [{0: 4, 1: 4}, {0: 1, 2: 1}, {0: 4}]),
    "mixed": ((20, 11, 3, 8), [{0: 9}, {1: 1, 0: 2, 2: 3}, {3: 7, 1: 9, 0: 1}, {0: 8, 1: 1, 3: 1}]),
    "long-prompt-beside-decodes": (
        (90, 6, 5, 4, 3),
        [{1: 5, 2: 4, 3: 3, 4: 2}, {1: 1, 0: 80, 2: 1, 3: 1, 4: 1}, {0: 10}],
    ),
}


@pytest.mark.parametrize("backend", backend_names())
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_any_schedule_gives_the_text_alone(schedule: str, shape: str, backend: str, opened: Any) -> None:
    lengths, steps = SCHEDULES[schedule]
    texts = texts_of(lengths)
    found = Play(opened(SHAPES[shape], backend), texts).run(steps)
    for text, rows in zip(texts, found, strict=True):
        np.testing.assert_allclose(rows, whole_text(SHAPES[shape], tuple(text.tolist())), rtol=0, atol=BAR)


@st.composite
def schedules(draw: Any) -> tuple[list[int], list[Step]]:
    """Texts of random length, and steps that take random parts of random requests until all are done."""
    left = draw(st.lists(st.integers(1, 40), min_size=1, max_size=5))
    lengths, steps = list(left), []
    while any(left):
        waiting = [r for r, n in enumerate(left) if n]
        chosen = draw(st.lists(st.sampled_from(waiting), min_size=1, max_size=4, unique=True))
        step = {r: draw(st.integers(1, left[r])) for r in chosen}
        for r, n in step.items():
            left[r] -= n
        steps.append(step)
    return lengths, steps


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=schedules(), name=st.sampled_from(sorted(SHAPES)), seed=st.integers(0, 99))
def test_random_schedules(plan: tuple[list[int], list[Step]], name: str, seed: int, opened: Any) -> None:
    """Logits are those of the text alone, and the pools of both backends agree bit for bit."""
    lengths, steps = plan
    texts = texts_of(lengths, seed)
    plays = [Play(opened(SHAPES[name], backend), texts, seed) for backend in backend_names()]
    for play in plays:
        for text, rows in zip(texts, play.run(steps), strict=True):
            np.testing.assert_allclose(rows, whole_text(SHAPES[name], tuple(text.tolist())), rtol=0, atol=BAR)
    pools = [play.executor.export_blocks(range(play.blocks)) for play in plays]
    for pool in pools[1:]:
        np.testing.assert_array_equal(pool, pools[0])


def test_blocks_of_one_and_many_tokens(opened: Any) -> None:
    texts = texts_of((19, 5))
    for block in (1, 16):
        found = Play(opened(SHAPES["grouped"], "onnxruntime", block), texts).run(
            [{0: 7, 1: 2}, {0: 12, 1: 3}]
        )
        for text, rows in zip(texts, found, strict=True):
            np.testing.assert_allclose(
                rows, whole_text(SHAPES["grouped"], tuple(text.tolist())), rtol=0, atol=BAR
            )


@pytest.mark.parametrize("backend", backend_names())
def test_step_without_wanted_rows(backend: str, opened: Any) -> None:
    texts = texts_of((9,))
    play = Play(opened(SHAPES["plain"], backend), texts)
    play.step({0: 6}, rows=False)
    found = play.step({0: 3})[0]
    np.testing.assert_allclose(
        found, whole_text(SHAPES["plain"], tuple(texts[0].tolist()))[6:], rtol=0, atol=BAR
    )


@pytest.mark.parametrize("backend", backend_names())
def test_other_requests_pages_are_never_read(backend: str, opened: Any) -> None:
    """Unused columns of the table hold block 0, somebody else's; and a page holds what was there before."""
    texts = texts_of((10, 3))
    play = Play(opened(SHAPES["plain"], backend), texts)
    others = [b for b in range(play.blocks) if b not in play.tables[0]]
    shape = play.executor.export_blocks(others).shape
    play.executor.import_blocks(others, np.full(shape, np.nan, np.float32))
    play.executor.import_blocks(list(play.tables[0]), np.full((3, *shape[1:]), 1e6, np.float32))
    found = np.concatenate([play.step({0: n}, extra_columns=3)[0] for n in (5, 1, 4)])
    np.testing.assert_allclose(found, whole_text(SHAPES["plain"], tuple(texts[0].tolist())), rtol=0, atol=BAR)


@pytest.mark.parametrize("backend", backend_names())
def test_blocks_move_with_their_content(backend: str, opened: Any) -> None:
    """Copied, exported and imported blocks serve as the originals do."""
    texts = texts_of((8,))
    play = Play(opened(SHAPES["windows"], backend), texts)
    play.step({0: 6})
    assert move_blocks(play).shape == (1, 2, 2, BLOCK, 2, 8)
    found = play.step({0: 2})[0]
    np.testing.assert_allclose(
        found, whole_text(SHAPES["windows"], tuple(texts[0].tolist()))[6:], rtol=0, atol=BAR
    )


def test_pools_are_written_in_place(opened: Any) -> None:
    """A step costs the same whatever the pool's size: it must take far less than a copy of the pools would."""
    executor = opened(SHAPES["plain"], "onnxruntime", 16)
    play = Play(executor, texts_of((60,)))
    executor.bind(40_000)
    play.step({0: 1})
    pool = np.ones(40_000 * executor.block_bytes // 4, np.float32)
    copying = min(_seconds(pool.copy) for _ in range(3))
    stepping = min(_seconds(lambda: play.step({0: 1})) for _ in range(10))
    assert stepping < copying / 3, (
        f"{pool.nbytes / 1e6:.0f} MB of pools: {stepping:.4f} s, a copy {copying:.4f} s"
    )


def _seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@pytest.mark.parametrize("shape", SHAPES)
def test_stateless_attention(shape: str, tmp_path: Path) -> None:
    module = stateless(SHAPES[shape])
    function = open_function(module, "onnxruntime", tmp_path)
    for starts in ([0, 1], [0, 4, 5, 12], [0, 30, 31]):
        count = starts[-1]
        position = np.concatenate([np.arange(b - a) for a, b in pairwise(starts)])
        arrays = (texts_of((count,))[0], position, np.array(starts, np.int32), np.arange(count))
        inputs = dict(zip(INPUTS, arrays, strict=True))
        wanted = expected(module, {n: torch.from_numpy(a) for n, a in inputs.items()})
        assert_close(function.call(inputs), wanted, BAR)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads", "softcap"), [(2, 2, 0.0), (6, 2, 1.5)])
def test_masked_attention(heads: int, kv_heads: int, softcap: float, masked: bool, tmp_path: Path) -> None:
    kinds = {"q": heads, "k": kv_heads, "v": kv_heads}
    inputs = {name: f"f32[B, S, {count}, 4]" for name, count in kinds.items()} | {"m": "bool[B, S]"}
    case = Case(
        "masked",
        inputs,
        lambda b, q, k, v, m: b.call(
            Q.masked_attention.default, q, k, v, m if masked else None, 0.6, softcap
        ),
    )
    module = module_of(case)
    function = open_function(module, "onnxruntime", tmp_path)
    for seed, sizes in enumerate(SIZES):
        drawn = draw_inputs(case, module, sizes, seed)
        drawn["m"][:, 0] = True  # a row without any token has no answer
        found = function.call({n: v.numpy() for n, v in drawn.items()})
        assert_close(found, expected(module, drawn), BAR)
