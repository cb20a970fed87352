"""The native quantized linear and embedding against the interpreter, over random shapes and on every instruction set.

Tolerance. Whole numbers inside a group are exact; sums over groups are rounded once each, in another order than the
interpreter's, which multiplies floats: 4e-6 of the largest result. Instruction sets with fused multiply-adds agree to
the bit, as all do about one row whatever stands beside it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optcc.backends.onnxruntime import native
from tests.native.linears import (
    Form,
    expected,
    expected_rows,
    prepared,
    rows,
    run,
    run_before,
    session,
    table,
    weights,
)

pytestmark = pytest.mark.skipif(native.library() is None, reason=str(native.status()))
ISAS = native.status().usable
FUSED = [name for name in ISAS if name != "portable"]
TOLERANCE = 4e-6


@st.composite
def forms(draw: st.DrawFn) -> Form:
    group = draw(st.sampled_from([8, 16, 24, 32, 64, 128, 0]))
    inputs = draw(st.integers(1, 6)) * (group or 8)
    return Form(
        draw(st.integers(1, 70)),
        inputs,
        group,
        draw(st.sampled_from([4, 8])),
        draw(st.sampled_from(["float32", "float16"])),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.integers(0, 3)),
    )


def _error(found: np.ndarray, wanted: np.ndarray) -> float:
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max(initial=0) / max(1.0, np.abs(wanted).max(initial=0)))


@settings(max_examples=40, deadline=None)
@given(forms(), st.integers(1, 70), st.sampled_from(ISAS))
def test_equals_the_interpreter(form: Form, count: int, isa: str) -> None:
    x = rows(form, count)
    assert _error(run(session(form, isa), x), expected(form, x)) < TOLERANCE


@settings(max_examples=20, deadline=None)
@given(forms(), st.integers(1, 70), st.integers(0, 69), st.sampled_from(ISAS))
def test_a_row_is_the_same_to_the_bit_whatever_stands_beside_it(
    form: Form, count: int, first: int, isa: str
) -> None:
    x = rows(form, 130)
    whole = run(session(form, isa), x)
    part = slice(first, first + count)
    np.testing.assert_array_equal(run(session(form, isa), x[part]), whole[part])
    np.testing.assert_array_equal(run(session(form, isa, 2), x), whole)
    np.testing.assert_array_equal(run(session(form, isa), x[::-1])[::-1], whole)


BEFORE = ("rms_norm", "add_rms_norm", "silu", "gelu_tanh")


def _given(form: Form, count: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows as they come before they are prepared, and what is added to them."""
    rng = np.random.default_rng(count)
    gated = not form.before.endswith("rms_norm")
    x = (rng.standard_normal((count, form.inputs * (1 + gated))) * 3).astype(np.float32)
    residual = rng.standard_normal(x.shape).astype(np.float32)
    return x, residual if form.before == "add_rms_norm" else None


@settings(max_examples=60, deadline=None)
@given(forms(), st.sampled_from(BEFORE), st.integers(1, 70), st.sampled_from(ISAS))
def test_prepared_rows_equal_the_interpreter(form: Form, before: str, count: int, isa: str) -> None:
    """Where rows are rounded to 8 bits a level may fall on the other side of a tie: a 127th of a group's largest."""
    form = replace(form, before=before)
    x, residual = _given(form, count)
    found = run_before(session(form, isa), x, residual)
    made, total = prepared(form, x, residual)
    assert _error(found[0], expected(form, made)) < (1e-2 if form.activations else 2e-5)
    if total is not None:
        np.testing.assert_array_equal(found[1], total)


@settings(max_examples=30, deadline=None)
@given(forms(), st.sampled_from(BEFORE), st.integers(1, 70), st.integers(0, 69), st.sampled_from(ISAS))
def test_a_prepared_row_is_the_same_to_the_bit_whatever_stands_beside_it(
    form: Form, before: str, count: int, first: int, isa: str
) -> None:
    form = replace(form, before=before)
    x, residual = _given(form, 130)
    whole = run_before(session(form, isa), x, residual)
    part = slice(first, first + count)
    some = run_before(session(form, isa), x[part], None if residual is None else residual[part])
    for found, wanted in zip(some, whole, strict=True):
        np.testing.assert_array_equal(found, wanted[part])
    for found, wanted in zip(run_before(session(form, isa, 2), x, residual), whole, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("before", BEFORE)
def test_rows_are_whole_however_many_threads_make_them(before: str, threads: int) -> None:
    """They are made inside of the loop that multiplies them: nobody may begin before the last one is there."""
    form = replace(Form(outputs=80, inputs=192, group=32), before=before)
    x, residual = _given(form, 90)
    whole = run_before(session(form), x, residual)
    for count in (1, 2, 3, 16, 67):
        for first in range(20):  # other rows each time: what is left of the last ones must not pass
            part = slice(first, first + count)
            some = run_before(
                session(form, "", threads), x[part], None if residual is None else residual[part]
            )
            for found, wanted in zip(some, whole, strict=True):
                np.testing.assert_array_equal(found, wanted[part])


@pytest.mark.parametrize("before", BEFORE)
def test_prepared_rows_agree_to_the_bit_on_fused_instruction_sets(before: str) -> None:
    fused = [isa for isa in ISAS if isa != "portable"]
    form = Form(45, 24 * 3, 24, before=before)
    x, residual = _given(form, 21)
    found = [run_before(session(form, isa), x, residual) for isa in fused]
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            np.testing.assert_array_equal(a, b)


AFTER = ("silu", "gelu_tanh")


@settings(max_examples=60, deadline=None)
@given(
    forms(),
    st.integers(1, 3),
    st.sampled_from(("", "rms_norm", "add_rms_norm")),
    st.sampled_from(AFTER),
    st.integers(1, 70),
    st.sampled_from(ISAS),
)
def test_activated_results_equal_the_interpreter(
    form: Form, pairs: int, before: str, after: str, count: int, isa: str
) -> None:
    form = replace(form, outputs=32 * pairs, before=before, after=after)
    if before:
        x, residual = _given(form, count)
        found = run_before(session(form, isa), x, residual)
        made, total = prepared(form, x, residual)
    else:
        made, total = rows(form, count), None
        found = [run(session(form, isa), made)]
    assert _error(found[0], expected(form, made)) < (3e-2 if before and form.activations else 2e-5)
    if total is not None:
        np.testing.assert_array_equal(found[1], total)


@settings(max_examples=30, deadline=None)
@given(
    forms(),
    st.integers(1, 3),
    st.sampled_from(AFTER),
    st.integers(1, 70),
    st.integers(0, 69),
    st.sampled_from(ISAS),
)
def test_an_activated_row_is_the_same_to_the_bit_whatever_stands_beside_it(
    form: Form, pairs: int, after: str, count: int, first: int, isa: str
) -> None:
    form = replace(form, outputs=32 * pairs, after=after)
    x = rows(form, 130)
    whole = run(session(form, isa), x)
    part = slice(first, first + count)
    np.testing.assert_array_equal(run(session(form, isa), x[part]), whole[part])
    np.testing.assert_array_equal(run(session(form, isa, 2), x), whole)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("activations", [True, False])
def test_the_next_linear_gets_the_same_bits_from_either(activations: bool, after: str, isa: str) -> None:
    """An activation may be done to results, or by the linear that reads them."""
    form = Form(128, 96, 32, activations=activations)
    last = Form(40, 64, 32, activations=activations)
    x = rows(form, 21)
    early = run(session(last, isa), run(session(replace(form, after=after), isa), x))
    late = run_before(session(replace(last, before=after), isa), run(session(form, isa), x), None)[0]
    np.testing.assert_array_equal(early, late)


@pytest.mark.parametrize("isa", ISAS)
def test_gates_at_their_ends(isa: str) -> None:
    """Where e^-x is no number of float32 any more, and what is no number at all."""
    form = Form(16, 64, 64, activations=False, before="silu")
    x = np.ones((4, 128), np.float32)
    x[0, :64], x[1, :64], x[2, 5] = -1000.0, 1000.0, np.nan
    found = run_before(session(form, isa), x, None)[0]
    assert _error(np.delete(found, 2, 0), np.delete(expected(form, prepared(form, x)[0]), 2, 0)) < 2e-5
    assert np.isnan(found[2]).all()


@pytest.mark.parametrize("isa", FUSED[1:])
@pytest.mark.parametrize("activations", [True, False])
def test_fused_instruction_sets_agree_to_the_bit(isa: str, activations: bool) -> None:
    for bits in (4, 8):
        form = Form(45, 192, 32, bits, symmetric=False, activations=activations)
        x = rows(form, 21)
        np.testing.assert_array_equal(run(session(form, isa), x), run(session(form, FUSED[0]), x))


@pytest.mark.parametrize("isa", ISAS)
def test_extreme_values(isa: str) -> None:
    """The largest products, with every field at its end, and activations that have no scale."""
    for bits in (4, 8):
        form = Form(16, 1024, 0, bits, symmetric=False)
        x = np.full((6, 1024), 3.0, np.float32)
        x[1], x[2] = -3.0, 0.0
        x[3] = 1e-41  # 127 / max|x| overflows
        x[4] = np.where(np.arange(1024) % 2, 2.5, 127.0)  # ties
        assert _error(run(session(form, isa), x), expected(form, x)) < TOLERANCE


@pytest.mark.parametrize("isa", ISAS)
def test_what_is_not_finite_is_not_hidden(isa: str) -> None:
    form = Form(20, 128, 64)
    for count in (1, 9):
        x = rows(form, count)
        x[-1, 70] = np.nan
        y = run(session(form, isa), x)
        assert np.isnan(y[-1]).all()
        assert np.isfinite(y[:-1]).all()
        x[-1, 70] = np.inf
        assert not np.isfinite(run(session(form, isa), x)[-1]).any()


@settings(max_examples=30, deadline=None)
@given(forms())
def test_packing_loses_nothing(form: Form) -> None:
    packed, _ = weights(form)
    found = form.packing.unpack(table(form))
    np.testing.assert_array_equal(found.packed, packed.packed.numpy())
    np.testing.assert_array_equal(found.scale, packed.scale.numpy())
    assert found.scale.dtype == form.scale
    assert (found.zero is None) == (packed.zero is None)
    if found.zero is not None and packed.zero is not None:
        np.testing.assert_array_equal(found.zero, packed.zero.numpy())


@settings(max_examples=20, deadline=None)
@given(forms(), st.lists(st.integers(0, 10_000), max_size=40))
def test_embedding_rows_are_exact(form: Form, drawn: list[int]) -> None:
    ids = np.array(drawn, np.int64) % form.outputs
    found = run(session(form, look_up=True), ids)
    np.testing.assert_array_equal(found, expected_rows(form, ids))
    both = np.stack([ids, ids])
    np.testing.assert_array_equal(run(session(form, look_up=True), both), np.stack([found, found]))


def test_no_rows() -> None:
    form = Form(20, 64, 32, bias=True)
    assert run(session(form), np.zeros((0, 64), np.float32)).shape == (0, 20)
    assert run(session(form), np.zeros((2, 0, 64), np.float32)).shape == (2, 0, 20)


def test_batches_have_the_shape_of_x() -> None:
    form = Form(20, 64, 32)
    x = rows(form, 6)
    np.testing.assert_array_equal(
        run(session(form), x.reshape(2, 3, 64)), run(session(form), x).reshape(2, 3, 20)
    )
    flat = session(replace(form, flatten=True))
    np.testing.assert_array_equal(run(flat, x.reshape(2, 3, 64)), run(session(form), x))


def test_mistakes_are_named() -> None:
    form = Form(20, 64, 32)
    with pytest.raises(Exception, match="N must be a multiple of 32"):
        session(replace(form, after="silu"))
    with pytest.raises(Exception, match=r"x must be \[\.\.\., 64\]"):
        run(session(form), np.zeros((2, 32), np.float32))
    with pytest.raises(Exception, match="there is no row 20 in a table of 20"):
        run(session(form, look_up=True), np.array([0, 20]))
