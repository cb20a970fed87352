"""Every pass does to its golden cases what the files say, and computes the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from optcc.ir.text import module_text
from optcc.pm import pass_ids
from tests.golden.cases import FOLDER, Case, all_cases, movement, read, rewrite, run, signature

_ROUNDING = 1e-5
_NARROW_ROUNDING = 2e-2


@pytest.mark.parametrize("case", all_cases(), ids=str)
def test_case(case: Case, update_golden: bool) -> None:
    before, after = run(case)
    if not update_golden:
        assert module_text(before) == case.before, "the input is not written as optcc prints it"
        assert module_text(after) == case.after
    if signature(before) == signature(after):
        rounding = _NARROW_ROUNDING if "bf16" in case.before else _ROUNDING
        assert movement(before, after) <= (case.tolerance if case.tolerance is not None else rounding)


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.ir")), ids=lambda f: f.stem)
def test_file_is_up_to_date(file: Path, update_golden: bool) -> None:
    if update_golden:
        rewrite(file)
    assert file.read_text() == "\n".join(case.show() for case in read(file))


@pytest.mark.parametrize("name", pass_ids())
def test_every_pass_has_a_case_that_changes_something(name: str) -> None:
    file = FOLDER / f"{name}.ir"
    assert file.is_file(), f"add tests/golden/{name}.ir with a small case"
    assert any(case.before != case.after for case in read(file))
