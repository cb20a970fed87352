"""Every error has a code of its own and a page that explains it."""

import re
from pathlib import Path

from optcc.cli.explain import page
from optcc.errors import OptccError, all_errors
from tools.gen_docs import FAMILIES, stale


def test_codes_are_unique_and_well_formed() -> None:
    codes = [error.code for error in all_errors()]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch(r"E[1-8]\d\d", code) for code in codes)
    assert {code[1] for code in codes} == set(FAMILIES)


def test_all_errors_live_where_explain_finds_them(root: Path) -> None:
    """A subclass elsewhere would be missing from `optcc explain` and from the docs."""
    names = "|".join(["OptccError", *(error.__name__ for error in all_errors())])
    pattern = re.compile(rf"class \w+\(({names})\)")
    files = [p for folder in ("optcc", "passes", "backends") for p in (root / folder).rglob("*.py")]
    strays = {p.name for p in files if pattern.search(p.read_text(encoding="utf-8"))} - {
        "errors.py",
        "recipe_errors.py",
    }
    assert not strays


def test_every_error_has_a_page() -> None:
    for error in all_errors():
        title, text = page(error)
        assert 5 < len(title) < 90, error.__name__
        assert "\n" not in title, error.__name__
        assert len(text) > 20, f"{error.__name__} has a title and no explanation"
        assert error.__doc__ != OptccError.__doc__


def test_generated_docs_are_up_to_date(root: Path) -> None:
    assert stale(root) == [], "run `make docs`"
