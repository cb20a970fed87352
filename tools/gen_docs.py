"""Write the generated pages of docs/: troubleshooting.md from the error classes, passes.md from the passes,
report.schema.json from the types of reports.

`python -m tools.gen_docs` writes them; with `--check` it writes nothing and exits 1 if one is out of date.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from optcc.cli.explain import page
from optcc.errors import all_errors
from optcc.pm.discover import load_pass, passes_root
from optcc.pm.options import option_names, option_type, show_value
from tools.report_schema import report_schema

ROOT = Path(__file__).resolve().parent.parent
NOTE = "<!-- Written by `make docs`; edit {source} instead. -->"
FAMILIES = {
    "1": "Recipes",
    "2": "Models",
    "3": "Graphs and passes",
    "4": "Quantization",
    "5": "Backends",
    "6": "Artifacts",
    "7": "Running",
    "8": "Checks",
}
STAGES = ("canonicalize", "quantize", "fuse", "speculate", "serve")


def troubleshooting() -> str:
    """The page of all error codes, by family."""
    lines = [
        "# Troubleshooting by error code",
        "",
        NOTE.format(source="the docstrings in optcc/errors.py"),
        "",
        "Every error that optcc expects has a code. `optcc explain CODE` prints the same text in a terminal.",
        "Exit codes: 0 good, 1 a check failed, 2 the input is wrong, 3 a bug of optcc.",
    ]
    for family, errors in groupby(all_errors(), key=lambda error: error.code[1]):
        lines += ["", f"## {FAMILIES[family]}"]
        for error in errors:
            title, text = page(error)
            lines += ["", f"### {error.code}: {title}", "", text]
    return "\n".join(lines) + "\n"


def passes() -> str:
    """The page of all passes of this repository, by stage in the order in which the stages run."""
    lines = [
        "# Passes",
        "",
        NOTE.format(source="the docstrings in passes/"),
        "",
        "The id of a pass is its path: `fuse.qkv` is `passes/fuse/qkv.py`.",
        "`optcc passes show ID` prints the same text. What a contract is: [docs/proof.md](proof.md#contracts).",
    ]
    for stage, ids in groupby(builtin_ids(), key=lambda ref: ref.partition(".")[0]):
        lines += ["", f"## {stage}"]
        for ref in ids:
            cls = load_pass(ref)
            text, _, described = inspect.cleandoc(cls.__doc__ or "").partition("\nOptions:\n")
            promise = f"Contract: {cls.contract}."
            lines += ["", f"### {ref}", "", text.rstrip(), "", promise, *_options(cls, described)]
    return "\n".join(lines) + "\n"


def builtin_ids() -> list[str]:
    """Ids of the passes in this repository, without those of other installed packages, in stage order."""
    root = passes_root()
    ids = [
        ".".join(path.relative_to(root).with_suffix("").parts).replace("_", "-")
        for path in root.rglob("*.py")
        if not path.name.startswith("_")
    ]
    return sorted(ids, key=lambda ref: (STAGES.index(ref.partition(".")[0]), ref))


def _options(cls: type, described: str) -> Iterator[str]:
    """A table of a pass's options; `described` is the Options section of its docstring."""
    options = option_names(cls)
    if not options:
        return
    yield from ("", "| option | type | default | |", "|---|---|---|---|")
    texts = dict(re.findall(r"^    ([\w-]+): (.*(?:\n     +.*)*)", described, re.MULTILINE))
    for name, field in options.items():
        kind = option_type(cls, name)
        shown = kind.__name__ if type(kind) is type else str(kind)
        default = "required" if field.default is dataclasses.MISSING else f"`{show_value(field.default)}`"
        text = " ".join(texts.get(name, "").split()).replace("|", "\\|")
        yield f"| `{name}` | `{shown}` | {default} | {text} |"


PAGES = {
    "docs/troubleshooting.md": troubleshooting,
    "docs/passes.md": passes,
    "docs/report.schema.json": report_schema,
}


def stale(root: Path = ROOT) -> list[str]:
    """The pages under `root` whose text isn't what would be written."""
    return [
        name
        for name, write in PAGES.items()
        if not (root / name).is_file() or (root / name).read_text(encoding="utf-8") != write()
    ]


def main() -> int:
    """Write the pages, or with `--check` name those that are out of date."""
    out_of_date = stale()
    if "--check" in sys.argv[1:]:
        print(
            "\n".join(f"{name} is out of date: run `make docs`" for name in out_of_date) or "docs: up to date"
        )
        return bool(out_of_date)
    for name in out_of_date:
        (ROOT / name).write_text(PAGES[name](), encoding="utf-8")
        print(f"wrote {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
