"""Pipelines print, parse back, check their passes' word, and name the culprit."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optcc.errors import BadOption, OutputInTheWay, PassFailed, PipelineText, UnknownOption, UnknownPass
from optcc.ir.parse import parse_module
from optcc.ir.text import module_text
from optcc.pm import (
    Builder,
    Context,
    Fix,
    Module,
    Pass,
    Pipeline,
    build_pass,
    parse_pipeline,
    pass_ids,
    run_pipeline,
)
from optcc.pm.instruments import Check, Diff, Dump, Record
from tests.unit.pm.halve import Halve

HALVE = Path(__file__).with_name("halve.py")
TEXT = """\
optcc.ir 1
graph model {
  %x : f32[T, 8] = input
  %y : f32[T, 8] = aten.mul.Tensor(%x, 2.0)
  %z : f32[T, 8] = aten.add.Tensor(%y, %x)
  return z = %z
}
weights {
}
"""


@dataclass(frozen=True)
class Liar(Pass):
    """Change the module and deny it, or the other way round."""

    id = "test.liar"
    changes: bool = True

    def run(self, module: Module, ctx: Context) -> bool:
        if self.changes:
            Halve(at_least=0.0).run(module, ctx)
        return not self.changes


@dataclass(frozen=True)
class WrongType(Pass):
    """Put a transposed operand where it doesn't fit, without inferring types again."""

    id = "test.wrong-type"

    def run(self, module: Module, ctx: Context) -> bool:
        add = module.find(torch.ops.aten.add.Tensor)[0]
        turned = Builder(module, add).call(torch.ops.aten.transpose.int, add.args[0], 0, 1)
        add.replace_input_with(add.args[0], turned)
        return True


def test_fix_repeats_until_nothing_changes() -> None:
    module = parse_module(TEXT.replace("2.0", "16.0"))
    assert run_pipeline(module, Pipeline((Fix((Halve(),), 8),)), Context(), [Check()])
    assert module.find(torch.ops.aten.mul.Tensor)[0].args[1] == 1.0


def test_fix_that_never_ends_is_an_error() -> None:
    module = parse_module(TEXT.replace("2.0", "1e30"))
    with pytest.raises(PassFailed, match="still changes"):
        run_pipeline(module, Pipeline((Fix((Halve(),), 4),)), Context(), [])


@pytest.mark.parametrize("changes", [True, False])
def test_a_pass_that_lies_about_changing_is_caught(changes: bool) -> None:
    with pytest.raises(PassFailed, match=r"test\.liar"):
        run_pipeline(parse_module(TEXT), Pipeline((Halve(), Liar(changes))), Context(), [Check()])


def test_a_wrong_rewrite_is_caught_and_named_with_those_before_it() -> None:
    with pytest.raises(PassFailed, match=r"`test.wrong-type` failed after `test.halve.*T") as caught:
        run_pipeline(parse_module(TEXT), Pipeline((Halve(), WrongType())), Context(), [Check()])
    assert caught.value.code == "E302"


def test_records_say_what_every_pass_did() -> None:
    record = Record()
    run_pipeline(parse_module(TEXT), Pipeline((Halve(), Halve())), Context(), [record, Check()])
    assert [(r.changed, r.nodes) for r in record.rows] == [(True, 2), (False, 2)]
    assert all(r.seconds >= 0 and r.peak_bytes > 0 for r in record.rows)
    assert type(record.rows[0]).from_json(record.rows[0].to_json()) == record.rows[0]


def test_diff_shows_the_changed_line_only() -> None:
    stream = io.StringIO()
    run_pipeline(parse_module(TEXT), Pipeline((Halve(), Halve())), Context(), [Diff(stream)])
    assert "-  %y : f32[T, 8] = aten.mul.Tensor(%x, 2.0)" in stream.getvalue()
    assert "+  %y : f32[T, 8] = aten.mul.Tensor(%x, 1.0)" in stream.getvalue()
    assert stream.getvalue().count("@@") == 2


def test_dump_writes_numbered_files_that_parse(tmp_path: Path) -> None:
    run_pipeline(parse_module(TEXT), Pipeline((Halve(),)), Context(), [Dump(tmp_path)])
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["000_captured.ir", "001_test.halve.ir"]
    assert module_text(parse_module((tmp_path / names[0]).read_text())) == TEXT


def test_dump_refuses_a_directory_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(OutputInTheWay, match=r"thesis\.docx"):
        Dump(tmp_path)
    assert (tmp_path / "thesis.docx").exists()


@given(
    st.floats(-1e6, 1e6),
    st.lists(st.text('abc*._-/ "{}[],=', min_size=1, max_size=6), max_size=3),
    st.booleans(),
    st.text('abc true12.{}="', max_size=8),
)
def test_options_round_trip_through_text(number: float, names: list[str], on: bool, label: str) -> None:
    step = Halve(number, tuple(names), on, label)
    text = str(step).replace("test.halve", f"{HALVE}:Halve")
    parsed = parse_pipeline(text).passes[0]
    assert (parsed.at_least, parsed.names, parsed.on, parsed.label) == (number, tuple(names), on, label)  # type: ignore[attr-defined]


def test_every_pass_with_defaults_round_trips() -> None:
    for ref in pass_ids():
        step = build_pass(ref, {})
        assert str(step) == ref
        assert parse_pipeline(str(step)).passes == (step,)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("serve.paged-kvv", UnknownPass),
        ("serve.paged_kv", UnknownPass),
        ("serve.paged-kv{blocksize=2}", UnknownOption),
        ("serve.paged-kv{block-size=big}", BadOption),
        ("serve.paged-kv{block-size=2", PipelineText),
        ("serve.paged-kv serve.paged-kv", PipelineText),
        ("fix(x){serve.paged-kv}", PipelineText),
        (",", PipelineText),
    ],
)
def test_bad_pipeline_text(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        parse_pipeline(text)


def test_unknown_pass_names_the_nearest() -> None:
    with pytest.raises(UnknownPass) as caught:
        build_pass("serve.paged-k", {}, where="recipe.yaml:7")
    assert "serve.paged-kv" in str(caught.value) and "recipe.yaml:7" in str(caught.value)


def test_a_plugin_is_read_from_a_file(tmp_path: Path) -> None:
    source = (
        "from dataclasses import dataclass\nfrom optcc.pm import Pass\n\n"
        "@dataclass(frozen=True)\nclass Nothing(Pass):\n"
        "    '''Change nothing.'''\n    times: int = 1\n\n    def run(self, module, ctx):\n        return False\n"
    )
    (tmp_path / "mine.py").write_text(source)
    step = build_pass("mine.py:Nothing", {"times": 3}, base=tmp_path)
    assert str(step) == "mine.py:Nothing{times=3}"
    assert parse_pipeline(str(step), tmp_path).passes == (step,)
    with pytest.raises(UnknownPass, match="no pass `Nothin`"):
        build_pass("mine.py:Nothin", {}, base=tmp_path)
    with pytest.raises(UnknownPass, match="no file"):
        build_pass("yours.py:Nothing", {}, base=tmp_path)
