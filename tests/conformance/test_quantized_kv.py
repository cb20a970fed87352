"""Quantized pools on every backend that has them: any schedule gives what the stateless quantized graph gives.

Keys and values are rows of tables, so their levels and scales must agree bit for bit between backends and schedules.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from optcc.backends.registry import load_backend
from optcc.errors import IncompatibleArtifact
from optcc.ir.interpret import interpret
from optcc.runtime.executor import Executor, ModelSpec
from tests.conformance.decoder import (
    BLOCK,
    INPUTS,
    SHAPES,
    Play,
    Shape,
    move_blocks,
    paged,
    quantized,
    spec_of,
    stateless,
    texts_of,
)
from tests.conformance.harness import build
from tests.conformance.test_attention import SCHEDULES, Step, schedules

BAR = 1e-5
KINDS = [
    ("onnxruntime", "int8", "float32"),
    ("reference", "int8", "float32"),
    ("onnxruntime", "float16", ""),
    ("reference", "float16", ""),
    ("reference", "int8", "float16"),
    ("reference", "e4m3", "float32"),
    ("reference", "e4m3", "float16"),
]
Kind = tuple[str, str, str]


@pytest.fixture(scope="module")
def opened(lowering: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """`opened(shape, kind)`: an executor of the decoder, compiled once for all tests."""
    made: dict[tuple[Shape, Kind], Executor] = {}

    def get(shape: Shape, kind: Kind) -> Executor:
        backend, levels, scale = kind
        if (shape, kind) not in made:
            root = tmp_path_factory.mktemp("decoder")
            build(paged(shape, BLOCK, levels, scale), backend, root)
            made[shape, kind] = load_backend(backend).open_decoder(
                root, spec_of(shape, BLOCK, levels, scale), 1
            )
        return made[shape, kind]

    yield get
    for executor in made.values():
        executor.close()


@cache
def _module(shape: Shape, levels: str, scale: str) -> Any:
    return quantized(shape, levels, scale) if levels else stateless(shape)


def bar_of(kind: Kind) -> float:
    """Our own attention multiplies int8 by int16, which is 2^-16 of its largest off; logits are up to 25."""
    return 5e-3 if kind[:2] == ("onnxruntime", "int8") else BAR


def whole_text(shape: Shape, kind: Kind | None, ids: np.ndarray) -> np.ndarray:
    """Logits of every token, the text alone in one stateless step of the quantized graph (None: of the plain one)."""
    count = len(ids)
    arrays = (ids, np.arange(count), np.array([0, count], np.int32), np.arange(count))
    inputs = {name: torch.from_numpy(a) for name, a in zip(INPUTS, arrays, strict=True)}
    _, levels, scale = kind or ("", "", "")
    return interpret(_module(shape, levels, scale), inputs)["logits"].numpy()


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
@pytest.mark.parametrize("shape", ["grouped", "windows", "softcap"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_any_schedule_gives_the_text_alone(schedule: str, shape: str, kind: Kind, opened: Any) -> None:
    lengths, steps = SCHEDULES[schedule]
    texts = texts_of(lengths)
    found = Play(opened(SHAPES[shape], kind), texts).run(steps)
    for text, rows in zip(texts, found, strict=True):
        np.testing.assert_allclose(rows, whole_text(SHAPES[shape], kind, text), rtol=0, atol=bar_of(kind))


def test_quantization_is_seen(opened: Any) -> None:
    """The bar above can tell quantized keys and values from plain ones, and int8 from float16 and e4m3."""
    shape, (text,) = SHAPES["grouped"], texts_of((14,))
    rows = [whole_text(shape, kind, text) for kind in (None, KINDS[1], KINDS[3], KINDS[6])]
    for i, a in enumerate(rows):
        for b in rows[i + 1 :]:
            assert np.abs(a - b).max() > 30 * BAR


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=schedules())
def test_pools_do_not_depend_on_schedule_or_backend(plan: tuple[list[int], list[Step]], opened: Any) -> None:
    """A token is quantized once, from itself alone: any chunks leave the same levels and scales in the pools."""
    lengths, steps = plan
    texts, shape = texts_of(lengths), SHAPES["grouped"]
    token_by_token = [{r: 1} for r, n in enumerate(lengths) for _ in range(n)]
    for ours, reference in ((KINDS[0], KINDS[1]), (KINDS[2], KINDS[3])):
        pools = []
        for kind, how in ((ours, steps), (reference, steps), (ours, token_by_token)):
            play = Play(opened(shape, kind), texts)
            play.run(how)
            pools.append(play.executor.export_blocks(range(play.blocks)))
        np.testing.assert_array_equal(pools[0], pools[1])
        np.testing.assert_array_equal(pools[2], pools[1])


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_pools_take_what_the_spec_says(kind: Kind, opened: Any) -> None:
    """The memory that is there, pool by pool."""
    shape = SHAPES["plain"]
    executor = opened(shape, kind)
    executor.bind(7)
    held = sum(int(p.nbytes) for p in executor._pools.values())
    assert held == 7 * executor.block_bytes
    scale_bytes = {"float32": 4, "float16": 2, "": 0}[kind[2]]
    value_bytes = 2 if kind[1] == "float16" else 1
    assert executor.block_bytes == 2 * 2 * BLOCK * shape.kv_heads * (shape.width * value_bytes + scale_bytes)


def test_heads_of_64_channels_take_over_three_and_a_half_times_less() -> None:
    """Than in float32, scales counted."""
    wide = Shape(9, 3, 64, (0,) * 30)
    plain, packed = (ModelSpec.from_json(spec_of(wide, 16, *k)) for k in ((), ("int8", "float32")))
    assert plain.block_bytes / packed.block_bytes > 3.5


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_blocks_move_with_their_content(kind: Kind, opened: Any) -> None:
    """Copied, exported and imported blocks serve as the originals do, and come out again bit for bit."""
    texts = texts_of((8,))
    play = Play(opened(SHAPES["windows"], kind), texts)
    play.step({0: 6})
    assert move_blocks(play).shape == (1, 2, 2, BLOCK, 2, 8)
    found = play.step({0: 2})[0]
    np.testing.assert_allclose(
        found, whole_text(SHAPES["windows"], kind, texts[0])[6:], rtol=0, atol=bar_of(kind)
    )


@pytest.mark.parametrize("kind", KINDS[:4], ids="-".join)
def test_other_requests_pages_are_never_read(kind: Kind, opened: Any) -> None:
    """Unused columns of the table hold block 0, somebody else's; and a page holds what was there before."""
    texts = texts_of((10, 3))
    play = Play(opened(SHAPES["plain"], kind), texts)
    others = [b for b in range(play.blocks) if b not in play.tables[0]]
    shape = play.executor.export_blocks(others).shape
    play.executor.import_blocks(others, np.full(shape, np.nan, np.float32))
    assert np.isnan(play.executor.export_blocks(others)).all()
    play.executor.import_blocks(list(play.tables[0]), np.full((3, *shape[1:]), 6e4, np.float32))
    found = np.concatenate([play.step({0: n}, extra_columns=3)[0] for n in (5, 1, 4)])
    np.testing.assert_allclose(found, whole_text(SHAPES["plain"], kind, texts[0]), rtol=0, atol=bar_of(kind))


@pytest.mark.parametrize(("levels", "scale"), [("e4m3", "float32"), ("int8", "float16")])
def test_onnxruntime_refuses_what_it_has_no_kernels_for(levels: str, scale: str, tmp_path: Any) -> None:
    module = quantized(SHAPES["plain"], levels, scale)
    backend = load_backend("onnxruntime")
    reasons = {why for node in module.nodes() if (why := backend.supports(node, module))}
    assert reasons == {
        "e4m3 activations, keys or values: no kernel for 8-bit floats on a CPU; int8 takes the same room"
        if levels == "e4m3"
        else "int8 activations with float16 scales"
    }
    build(paged(SHAPES["plain"]), "onnxruntime", tmp_path)
    with pytest.raises(IncompatibleArtifact, match=rf"{levels} with scales of type {scale}"):
        backend.open_decoder(tmp_path, spec_of(SHAPES["plain"], BLOCK, levels, scale), 1)
