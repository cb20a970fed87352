"""Properties of all passes: their text parses back, and their docstrings say what they do."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optcc.pm import Fix, Pass, Pipeline, load_pass, parse_pipeline, pass_ids
from optcc.pm.options import option_type

_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)
_VALUES: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(-(2**40), 2**40),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: _TEXT,
}


def _values(kind: Any) -> st.SearchStrategy[Any]:
    if get_origin(kind) is tuple:
        return st.lists(_values(get_args(kind)[0]), max_size=3).map(tuple)
    return _VALUES[kind]


@st.composite
def _passes(draw: st.DrawFn) -> Pass:
    cls = load_pass(draw(st.sampled_from(pass_ids())))
    options = {f.name: draw(_values(option_type(cls, f.name))) for f in dataclasses.fields(cls)}
    return cls(**options)


@given(st.lists(_passes(), min_size=1, max_size=4), st.integers(1, 9))
def test_text_of_passes_parses_back(passes: list[Pass], times: int) -> None:
    pipeline = Pipeline((*passes, Fix(tuple(passes), times)))
    parsed = parse_pipeline(str(pipeline))
    assert parsed == pipeline
    assert str(parsed) == str(pipeline)


@pytest.mark.parametrize("name", pass_ids())
def test_a_pass_says_what_holds_before_and_after(name: str) -> None:
    cls = load_pass(name)
    text = inspect.getdoc(cls) or ""
    assert text.splitlines()[0].rstrip(":").strip()
    assert "Before:" in text
    assert "After:" in text
    module = inspect.getmodule(cls)
    assert module is not None
    assert module.__doc__
