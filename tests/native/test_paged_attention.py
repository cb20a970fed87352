"""PagedAttention against the interpreter over random shapes, and rows that depend on nothing but themselves."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optcc.backends.onnxruntime import native
from optcc.ir.ops.quantized import quantize_activation
from tests.native.paged import KINDS, Form, Texts, expected, in_rows, raw, run, session

pytestmark = pytest.mark.skipif(not native.status().ok, reason=str(native.status()))

ISAS = native.status().usable
BARS = {"float32": 3e-6, "float16": 3e-6, "int8": 2e-4}
"""Largest difference from the interpreter, relative to the largest value: both sum in float32, in other orders. int8 is
multiplied with queries and weights in int16, of which each is off by up to 2^-16 of its row's largest."""


@st.composite
def forms(draw: Any) -> Form:
    """Any heads, widths and options; the small and the odd ones more often."""
    kv_heads, shared = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3, 4, 7, 8]))
    width = draw(st.one_of(st.sampled_from([32, 64, 80, 128, 256]), st.integers(1, 260)))
    return Form(
        heads=kv_heads * shared,
        kv_heads=kv_heads,
        width=width,
        block=draw(st.sampled_from([1, 4, 16, 32])),
        kind=draw(st.sampled_from(sorted(KINDS))),
        window=draw(st.sampled_from([0, 0, 1, 5, 64, 200])),
        softcap=draw(st.sampled_from([0.0, 0.0, 1.5, 30.0])),
        scale=draw(st.sampled_from([1.0, width**-0.5, 0.01])),
        sinks=draw(st.sampled_from([0.0, 0.0, 1.0, 200.0])),
        isa=draw(st.sampled_from(ISAS)),
        threads=draw(st.sampled_from([1, 2])),
    )


@st.composite
def schedules(draw: Any, longest: int = 150, most: int = 4) -> tuple[list[int], list[dict[int, int]]]:
    """Lengths, and steps in which any requests take any number of tokens, none included, until all are done."""
    left = draw(st.lists(st.integers(0, longest), min_size=1, max_size=most).filter(any))
    lengths, steps = list(left), []
    while any(left):
        step = {r: draw(st.one_of(st.just(min(1, n)), st.integers(0, n))) for r, n in enumerate(left)}
        if not any(step.values()):
            r = next(r for r, n in enumerate(left) if n)
            step[r] = left[r]
        chosen = draw(st.permutations(sorted(step)))
        step = {r: step[r] for r in chosen if step[r] or draw(st.booleans())}
        for r, n in step.items():
            left[r] -= n
        steps.append(step)
    return lengths, steps


def assert_close(found: np.ndarray, wanted: np.ndarray, bar: float) -> None:
    np.testing.assert_allclose(
        found, wanted, rtol=0, atol=bar * max(1.0, float(np.abs(wanted).max(initial=0)))
    )


@given(form=forms(), plan=schedules(), seed=st.integers(0, 99))
def test_any_step_is_the_interpreters(form: Form, plan: tuple[Any, Any], seed: int) -> None:
    """Rows within rounding; pools bit for bit."""
    lengths, steps = plan
    texts = Texts(form, lengths, seed)
    for counts in steps:
        inputs = texts.step(counts, extra_columns=seed % 3)
        copy = in_rows(inputs)
        # A softcap's tanh and a scale of 1 over wide heads multiply rounding errors of scores.
        steepness = max(1.0, form.scale * form.width**0.5)
        assert_close(run(session(form), inputs), expected(form, copy), BARS[form.kind] * 4 * steepness)
        written = in_rows(inputs)
        for name in texts.pools:
            np.testing.assert_array_equal(written[name], copy[name])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("window", [0, 700])
def test_long_contexts(window: int, kind: str, isa: str) -> None:
    """Several segments, one request alone and in company."""
    form = Form(kind=kind, window=window, isa=isa, threads=2)
    for lengths in ([1500], [1100, 3, 600]):
        texts = Texts(form, lengths)
        for counts in ({r: n - 1 for r, n in enumerate(lengths)}, dict.fromkeys(range(len(lengths)), 1)):
            inputs = texts.step(counts)
            copy = in_rows(inputs)
            assert_close(run(session(form), inputs), expected(form, copy), BARS[form.kind])


@given(form=forms(), plan=schedules(longest=700, most=3), seed=st.integers(0, 99))
def test_a_row_depends_on_nothing_beside_it(form: Form, plan: tuple[Any, Any], seed: int) -> None:
    """Bit for bit: chunks, company, order, page placement, block size and threads change no row."""
    lengths, steps = plan
    found = Texts(form, lengths, seed).play(steps)
    again = Texts(replace(form, threads=3 - form.threads, block=16), lengths, seed)
    again.place(np.random.default_rng(seed))
    for r, rows in enumerate(again.play([{r: n} for r, n in enumerate(lengths) if n])):
        np.testing.assert_array_equal(rows.view(np.int32), found[r].view(np.int32))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_token_by_token_is_the_whole(kind: str, isa: str) -> None:
    """Decoding across segments gives the bits of one prefill."""
    form = Form(heads=4, kv_heads=2, width=40, kind=kind, isa=isa, softcap=20.0)
    texts = Texts(form, [1030, 520])
    found = texts.play([{0: 1000, 1: 505}, *([{0: 1, 1: 1}] * 15), *([{0: 1}] * 15)])
    for rows, wanted in zip(found, Texts(form, [1030, 520]).play([{0: 1030, 1: 520}])):
        np.testing.assert_array_equal(rows.view(np.int32), wanted.view(np.int32))


@pytest.mark.parametrize("isa", ISAS)
def test_a_chunk_of_infinitely_low_scores_has_no_weight(isa: str) -> None:
    """As in the interpreter: what else a row sees is as if the chunk weren't there."""
    form = Form(isa=isa, heads=1, scale=1.0)
    for first in (0, 64):
        texts = Texts(form, [128])
        texts.q[0][:] = np.abs(texts.q[0])
        texts.new[0]["key"][first : first + 64] = -np.inf
        copy = in_rows(inputs := texts.step({0: 128}))
        found, wanted = run(session(form), inputs), expected(form, copy)
        seen = slice(64 if first == 0 else 0, None)
        assert_close(found[seen], wanted[seen], BARS[form.kind])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("window", [0, 90])
def test_chunks_shared_by_threads_are_the_whole(window: int, kind: str, isa: str) -> None:
    """One short request, whose chunks threads share, has the bits of one prefill and of company that shares nothing."""
    form = Form(9, 3, 64, kind=kind, isa=isa, threads=2, window=window, sinks=1.0)
    alone = Texts(form, [262]).play([{0: 120}, *([{0: 1}] * 60), {0: 3}, {0: 60}, *([{0: 1}] * 19)])[0]
    whole = Texts(form, [262]).play([{0: 262}])[0]
    np.testing.assert_array_equal(alone.view(np.int32), whole.view(np.int32))
    copy = in_rows(inputs := Texts(form, [262]).step({0: 262}))
    run(session(form), inputs)
    assert_close(alone, expected(form, copy), BARS[form.kind])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("block", [4, 16])
def test_decoding_many_requests(block: int, kind: str, isa: str) -> None:
    """So many that all KV heads of a request are one piece of work: the interpreter's rows, and those of each alone."""
    form = Form(heads=9, kv_heads=3, width=48, block=block, kind=kind, isa=isa, threads=2)
    many = 4 * (os.cpu_count() or 1) + 3
    lengths = [1 + 29 * r % 150 for r in range(many - 1)] + [600]
    texts = Texts(form, lengths)
    texts.play([{r: n - 1 for r, n in enumerate(lengths)}])
    inputs = texts.step(dict.fromkeys(range(many), 1))
    copy = in_rows(inputs)
    found = run(session(form), inputs)
    assert_close(found, expected(form, copy), BARS[form.kind])
    for r in (0, 1, 5, many - 1):
        alone = Texts(form, lengths).play([{r: lengths[r]}])[r]
        np.testing.assert_array_equal(found[r].view(np.int32), alone[-1].view(np.int32))


@pytest.mark.parametrize("isa", ISAS)
def test_more_heads_than_a_piece_has_rows(isa: str) -> None:
    """100 heads over one KV head."""
    form = Form(heads=100, width=32, isa=isa)
    inputs = Texts(form, [70]).step({0: 70})
    copy = in_rows(inputs)
    assert_close(run(session(form), inputs), expected(form, copy), BARS[form.kind])


@pytest.mark.parametrize("isa", ISAS)
def test_shared_pages(isa: str) -> None:
    """Requests whose tables begin with the same pages: written by the first, read by all, written by nobody else."""
    form = Form(heads=4, kv_heads=2, width=48, isa=isa)
    alone = [Texts(form, [40, 70, 33], shared=2).play([{r: n}])[r] for r, n in enumerate((40, 70, 33))]
    texts = Texts(form, [40, 70, 33], shared=2)
    first = texts.play([{0: 40}])
    held = {name: pool[texts.tables[0][:2]].copy() for name, pool in texts.pools.items()}
    texts.done = [40, 32, 32]
    rest = texts.play([{1: 38, 2: 1}])
    for name, pool in texts.pools.items():
        np.testing.assert_array_equal(pool[texts.tables[0][:2]], held[name])
    np.testing.assert_array_equal(first[0], alone[0])
    for r in (1, 2):
        np.testing.assert_array_equal(rest[r], alone[r][32:])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("readers", [1, 40])
def test_pages_that_another_request_writes_in_the_same_step(readers: int, kind: str, isa: str) -> None:
    """The last request of a step writes what all others read: they see it, as if it had been written before."""
    form = Form(heads=4, kv_heads=2, width=48, kind=kind, isa=isa, threads=2)
    lengths = [form.block] + [700] * readers  # more work, which is begun first
    others = range(1, 1 + readers)

    def played(*steps: dict[int, int]) -> list[np.ndarray]:
        texts = Texts(form, lengths, shared=1)
        texts.done = [0] + [form.block] * readers
        return texts.play(steps)

    own, last = dict.fromkeys(others, 699 - form.block), dict.fromkeys(others, 1)
    found = played(own, last | {0: form.block})
    wanted = played({0: form.block}, own, last)
    for r in others:
        np.testing.assert_array_equal(found[r][-1].view(np.int32), wanted[r][-1].view(np.int32))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_other_pages_hold_is_never_read(kind: str, isa: str) -> None:
    form = Form(kind=kind, isa=isa)
    wanted = Texts(form, [50]).play([{0: 50}])[0]
    texts = Texts(form, [50])
    for name, pool in texts.pools.items():
        if pool.dtype != np.int8:
            pool[:] = np.nan
        assert name
    np.testing.assert_array_equal(texts.play([{0: 7}, {0: 1}, {0: 42}])[0], wanted)


@pytest.mark.parametrize("isa", ISAS)
def test_scores_that_are_huge_or_no_numbers(isa: str) -> None:
    """Large scores don't overflow; a NaN reaches its own rows and no others."""
    form = Form(isa=isa, heads=1)
    texts = Texts(form, [90], spread=30.0)
    inputs = texts.step({0: 90})
    copy = in_rows(inputs)
    assert_close(run(session(form), inputs), expected(form, copy), 1e-4)
    texts = Texts(form, [90, 9])
    texts.q[0][40] = np.nan
    found = texts.play(texts.whole())
    assert np.isnan(found[0][40]).all()
    assert np.isfinite(np.delete(found[0], 40, 0)).all()
    assert np.isfinite(found[1]).all()
    texts = Texts(form, [90, 9])
    texts.new[0]["key"][40] = np.nan
    found = texts.play([{0: 40, 1: 9}, {0: 50}])
    assert np.isnan(found[0][40:]).all()
    assert np.isfinite(found[0][:40]).all()


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([(9, 3), (4, 1), (2, 2)]),
    st.sampled_from([8, 33, 64]),
    st.sampled_from([0, 8, 6]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(sorted(KINDS)),
    st.lists(st.integers(1, 70), min_size=1, max_size=4),
    st.sampled_from(ISAS),
)
def test_what_is_done_to_rows_is_what_was_done_outside(
    heads: tuple[int, int],
    width: int,
    rotary: int,
    interleaved: bool,
    joined: bool,
    kind: str,
    lengths: list[int],
    isa: str,
) -> None:
    """To the bit: pools as well. Each product is rounded, as torch rounds it."""
    plain = Form(*heads, width, kind=kind, isa=isa, threads=2)
    form = replace(plain, rotary=rotary, interleaved=interleaved, joined=joined, floats=kind == "int8")
    assert_done_outside(plain, form, Texts(plain, lengths).step(dict(enumerate(lengths))))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize(("before", "new"), [(127, 1), (150, 5), (599, 1), (510, 5), (700, 30), (511, 1)])
def test_what_is_done_to_rows_of_requests_in_segments(before: int, new: int, kind: str, isa: str) -> None:
    """The same where several pieces of work read a token's queries, and one or several the keys of the step."""
    plain = Form(9, 3, 64, kind=kind, isa=isa, threads=2)
    texts = Texts(plain, [before + new])
    texts.play([{0: before}])
    form = replace(plain, rotary=8, joined=True, floats=kind == "int8")
    assert_done_outside(plain, form, texts.step({0: new}))


def assert_done_outside(plain: Form, form: Form, step: dict[str, np.ndarray]) -> None:
    """A step of raw rows in `form` gives the bits of its prepared rows in `plain`."""
    inputs, outside = raw(form, step)
    pools = {name: inputs[name].copy() for name in inputs if name.endswith("_pool")}
    wanted = run(session(plain), outside | pools)
    found = run(session(form), inputs)
    np.testing.assert_array_equal(found.reshape(wanted.shape), wanted)
    assert found.shape == ((1, len(wanted), form.heads * form.width) if form.joined else wanted.shape)
    for name, pool in pools.items():
        np.testing.assert_array_equal(inputs[name], pool)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_what_is_no_number_stays_so_in_int8(name: str, isa: str) -> None:
    """A key or value reaches the rows that see it, a query its own, and no others."""
    form = Form(kind="int8", isa=isa, floats=True)
    inputs, _ = raw(form, Texts(replace(form, floats=False), [40]).step({0: 40}))
    inputs[name][5, 0, 7] = np.nan
    reached = np.zeros(40, bool)
    reached[5 : 6 if name == "query" else 40] = True
    found = run(session(form), inputs)
    heads = found[:, :1] if name == "query" else found
    assert np.isnan(heads[reached]).all()
    assert np.isfinite(found[~reached]).all()


@pytest.mark.parametrize("isa", ISAS)
def test_a_sink_takes_its_share(isa: str) -> None:
    """All of it when it is far above every score, and nothing when it is far below, without overflow."""
    form = Form(heads=3, isa=isa, sinks=1.0)
    texts, plain = Texts(form, [300]), Texts(replace(form, sinks=0.0), [300])
    wanted = plain.play(plain.whole())[0]
    texts.sinks = np.array([1e4, -1e4, -np.inf], np.float32)
    found = texts.play(texts.whole())[0]
    assert np.abs(found[:, 0]).max() < 1e-30
    assert_close(found[:, 1:], wanted[:, 1:], BARS[form.kind])


def test_sinks_of_other_heads_are_refused() -> None:
    form = Form(sinks=1.0)
    inputs = Texts(form, [20]).step({0: 20})
    with pytest.raises(Exception, match="sinks"):
        run(session(form), inputs | {"sinks": inputs["sinks"][:-1].copy()})


def test_tables_may_lie_in_matrices_of_one_row() -> None:
    form = Form(rotary=64)
    inputs, _ = raw(form, Texts(Form(), [20]).step({0: 20}))
    wanted = run(session(form), inputs)
    for shape in ((1, 20, -1), (1, 20, 1, -1)):
        grouped = {name: inputs[name].reshape(shape) for name in ("cos", "sin")}
        np.testing.assert_array_equal(run(session(form), inputs | grouped), wanted)


def test_tables_that_do_not_fit_are_refused() -> None:
    form = Form(rotary=64)
    inputs, _ = raw(form, Texts(Form(), [20]).step({0: 20}))
    for name, wrong in (("cos", inputs["cos"][:-1]), ("sin", inputs["sin"][:-1])):
        with pytest.raises(Exception, match="cos and sin must be"):
            run(session(form), inputs | {name: wrong.copy()})
    joined = replace(form, joined=True)
    inputs, _ = raw(joined, Texts(Form(), [20]).step({0: 20}))
    with pytest.raises(Exception, match="whole heads"):
        run(session(joined), inputs | {"query": inputs["query"][..., :-1].copy()})


WRONG = {
    "block_table": (lambda x: np.full_like(x, 99), "points outside of the pool"),
    "kv_lengths": (lambda x: x - 100, "less than its tokens"),
    "query_starts": (lambda x: x + 1, "goes from 0 to T"),
    "key": (lambda x: x[:-1].copy(), "key and value must be"),
    "value_pool": (lambda x: x[:-1].copy(), "pools must be"),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_wrong_inputs_are_refused(name: str) -> None:
    change, message = WRONG[name]
    inputs = Texts(Form(), [20]).step({0: 20})
    inputs[name] = change(inputs[name])
    with pytest.raises(Exception, match=f"PagedAttention: .*{message}"):
        run(session(Form()), inputs)


STEPS = {
    "table": {"block_table": lambda x: x[::-1]},
    "lengths": {"kv_lengths": lambda x: x - 5},
    "starts": {"query_starts": lambda x: np.array([0, 3, 8], np.int32)},
    "who sees whose": {"block_table": lambda x: np.where(x == x[1, 0], x[0, 24], x)},
}


@pytest.mark.parametrize("what", sorted(STEPS))
def test_a_plan_is_kept_for_the_same_step_alone(what: str) -> None:
    """Layers ask for one step after the other. Here the numbers change where they lie."""
    texts = Texts(Form(), [400, 390])
    run(session(texts.form), texts.step({0: 396, 1: 386}))
    inputs = texts.step({0: 4, 1: 4})
    for _ in range(2):
        run(session(texts.form), inputs)
    wrong = inputs["block_table"][1, 2]
    inputs["block_table"][1, 2] = 10_000
    with pytest.raises(Exception, match="points outside of the pool"):
        run(session(texts.form), inputs)
    inputs["block_table"][1, 2] = wrong
    for name, change in STEPS[what].items():
        inputs[name][...] = change(inputs[name].copy())
    plain = in_rows(inputs)
    found = run(session(texts.form), inputs)
    assert_close(found, expected(texts.form, plain), BARS["float32"])
    for name in ("key_pool", "value_pool"):
        np.testing.assert_array_equal(in_rows(inputs)[name], plain[name])


@pytest.mark.parametrize(
    "other",
    [Form(window=300), Form(kv_heads=3), Form(heads=24), Form(width=256)],
    ids=str,
)
def test_a_plan_is_kept_for_layers_alike_alone(other: Form) -> None:
    """One step over layers that differ, in both orders."""
    forms = (Form(), other)
    for first, second in (forms, forms[::-1]):
        texts = Texts(first, [900, 390]), Texts(second, [900, 390])
        for counts in ({0: 896, 1: 386}, {0: 4, 1: 4}):
            steps = [of.step(counts) for of in texts]
            for name in ("query_starts", "kv_lengths", "block_table"):
                steps[1][name] = steps[0][name]
            for of, inputs in zip(texts, steps, strict=True):
                wanted = expected(of.form, in_rows(inputs))
                assert_close(run(session(of.form), inputs), wanted, BARS["float32"])


def test_a_plan_is_kept_for_pools_as_large_alone() -> None:
    texts = Texts(Form(), [400])
    inputs = texts.step({0: 400})
    run(session(texts.form), inputs)
    fewer = {
        name: inputs[name][: int(inputs["block_table"].max())].copy() for name in ("key_pool", "value_pool")
    }
    with pytest.raises(Exception, match="points outside of the pool"):
        run(session(texts.form), inputs | fewer)


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
def test_a_layer_of_pools_of_all(kind: str) -> None:
    """The same results, written to its own part of the pools."""
    form = Form(kind=kind, kv_heads=3)
    wanted = Texts(form, [40, 7])
    found = Texts(form, [40, 7])
    rows = run(session(form), wanted.step({0: 40, 1: 7}))
    for layer in range(3):
        pools = {name: np.stack([pool] * 3) for name, pool in found.pools.items()}
        before = {name: pool.copy() for name, pool in pools.items()}
        found.done = [0, 0]
        np.testing.assert_array_equal(
            run(session(replace(form, layer=layer)), found.step({0: 40, 1: 7}) | pools), rows
        )
        for name, pool in pools.items():
            np.testing.assert_array_equal(pool[layer], wanted.pools[name])
            others = [i for i in range(3) if i != layer]
            np.testing.assert_array_equal(pool[others], before[name][others])


def test_pools_without_the_layer_are_refused() -> None:
    form = Form(layer=2)
    inputs = Texts(form, [20]).step({0: 20})
    for copies in (2, 1):
        stacked = {n: np.stack([inputs[n]] * copies) for n in ("key_pool", "value_pool")}
        with pytest.raises(Exception, match="PagedAttention: with layer, pools are"):
            run(session(form), inputs | stacked)
    mixed = {
        "key_pool": np.stack([inputs["key_pool"]] * 3),
        "value_pool": np.stack([inputs["value_pool"]] * 2),
    }
    with pytest.raises(Exception, match="PagedAttention: with layer, pools are"):
        run(session(form), inputs | mixed)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("width", [5, 33, 35, 64])
def test_int8_caches_hold_rows_of_any_size(width: int, isa: str) -> None:
    """From the smallest float to the largest, zeros, infinities and what is no number: as the reference has them."""
    form = Form(width=width, kind="int8", isa=isa, floats=True)
    inputs, _ = raw(form, Texts(replace(form, floats=False), [90]).step({0: 90}))
    key = inputs["key"]
    key[:83] *= np.float32(10.0) ** np.arange(-45, 38, dtype=np.float32)[:, None, None]
    key[83], key[84, 0, width - 1], key[85, 0, 0], key[86, 0, width - 2] = 0.0, np.nan, np.nan, np.nan
    key[87, 0, 1], key[88, 0, width - 1], key[89, 0, 0] = np.inf, -np.inf, 3e38
    levels, scale = quantize_activation(torch.from_numpy(key), "int8", 0, "float32", None)
    run(session(form), inputs)
    held = in_rows(inputs)
    rows = [(int(page), place) for page in inputs["block_table"][0] for place in range(form.block)][:90]
    pages, places = zip(*rows, strict=True)
    np.testing.assert_array_equal(held["key_scale_pool"][pages, places], scale.numpy())
    np.testing.assert_array_equal(held["key_pool"][pages, places], levels.numpy())
