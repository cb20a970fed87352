"""What the pages say is true: links resolve, commands exist, recipes load, graphs parse, examples run."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from ruamel.yaml import YAML

from optcc.backends.registry import load_backend
from optcc.cli.main import VERBS, root
from optcc.compile.plan import make_plan
from optcc.errors import all_errors
from optcc.frontend.factory import call_factory
from optcc.ir import ops  # noqa: F401 - registers the operators
from optcc.ir.check import check_ir
from optcc.ir.interpret import interpret
from optcc.ir.parse import parse_module
from optcc.ir.text import module_text
from optcc.ir.types import DTYPES
from optcc.pm import Context, parse_pipeline, run_pipeline
from optcc.pm.instruments import Check, Record
from optcc.recipe import list_schemes, load_recipe, load_scheme
from optcc.recipe.fields import FIELDS
from optcc.recipe.schema import (
    STAGES,
    CalibrateOptions,
    CheckOptions,
    ModelOptions,
    SpeedLimit,
    TargetOptions,
)
from tests.conftest import ROOT
from tests.golden import cases

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/README.md")])
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, language: str = "") -> list[str]:
    """The fenced blocks of a page, or those of one language."""
    return [body for kind, body in _FENCE.findall(page.read_text()) if language in ("", kind)]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """What a link may name in a page: its headings, spelled as on GitHub."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_links_resolve(page: Path) -> None:
    for link in _LINK.findall(prose(page)):
        if link.startswith(("https://", "http://")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_is_reached_from_the_readme(root: Path) -> None:
    linked = {
        (root / link.partition("#")[0]).resolve() for link in _LINK.findall((root / "README.md").read_text())
    }
    assert {page for page in root.glob("docs/*.md") if page.resolve() not in linked} == set()


def shell_lines(page: Path) -> Iterator[str]:
    """Command lines: all of a `sh` block, those after `$ ` of a `console` block."""
    for body in blocks(page, "sh"):
        yield from body.replace("\\\n", " ").splitlines()
    for body in blocks(page, "console"):
        yield from (line[2:] for line in body.replace("\\\n", " ").splitlines() if line.startswith("$ "))


def commands(page: Path) -> list[list[str]]:
    """The words of every command, pipes and redirections taken apart."""
    found = []
    for line in shell_lines(page):
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|>&;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("|>&;"):
                found.append(words)
                words = [">"] if set(word) == {">"} else []
            else:
                words.append(word)
    return [words for words in found if words and words[0] != ">"]


def parse(words: list[str]) -> None:
    """Let click parse a command line of optcc. Raises click.UsageError."""
    command: click.Command = root
    context = click.Context(root, info_name="optcc")
    rest = words[1:]
    while isinstance(command, click.Group):
        assert rest, words
        found = command.get_command(context, rest[0])
        assert found is not None, f"{rest[0]} is no verb"
        command, rest = found, rest[1:]
    command.make_context("optcc", rest)


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_command_lines_parse(page: Path, root: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9]+):", (root / "Makefile").read_text(), re.M))
    for words in commands(page):
        if words[0] == "optcc":
            parse(words)
        elif words[0] == "make":
            assert set(words[1:]) <= targets, words
        elif words[0].startswith("./"):
            assert (page.parent / words[0]).exists(), words
        else:
            assert words[0] in {"pip", "echo"}, words


@pytest.mark.parametrize("text", ["optcc run", "optcc bench online d", "optcc passes list --all", "optcc x"])
def test_a_wrong_command_line_would_be_found(text: str) -> None:
    with pytest.raises((click.UsageError, AssertionError)):
        parse(text.split())


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_verbs_flags_and_codes_in_the_text_exist(page: Path) -> None:
    text = prose(page)
    mentioned = set(re.findall(r"`optcc ([a-z]+)", text))
    assert mentioned <= set(VERBS)
    flags = {flag for name in VERBS for flag in _flags(_verb(name))} | {"--help"}
    if page.name != "troubleshooting.md":
        assert set(re.findall(r"`(--[a-z][a-z-]*)", text)) <= flags
    assert set(re.findall(r"\b(E\d\d\d)\b", text)) <= {error.code for error in all_errors()}


def _verb(name: str) -> click.Command:
    command = root.get_command(click.Context(root), name)
    assert command is not None
    return command


def _flags(command: click.Command) -> Iterator[str]:
    for parameter in command.params:
        yield from parameter.opts
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _flags(inner)


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with every block whose first line is a file's name, and the file of the example pass."""
    folder = tmp_path_factory.mktemp("docs")
    for page in PAGES:
        for body in blocks(page):
            if match := re.match(r"# (\w+\.(?:yaml|py))\n", body):
                assert not (folder / match[1]).exists(), f"two blocks are called {match[1]}"
                (folder / match[1]).write_text(body)
    shutil.copy(ROOT / "examples" / "add_a_pass" / "prune.py", folder)
    return folder


YAML_BLOCKS = [(page, body) for page in PAGES for body in blocks(page, "yaml")]


@pytest.mark.parametrize(
    ("page", "body"), YAML_BLOCKS, ids=lambda v: names(v) if isinstance(v, Path) else v[:20]
)
def test_yaml_loads(page: Path, body: str, named: Path) -> None:
    """Schemes as schemes; recipes down to every pass and option. A fragment is a recipe without its first line."""
    file = named / "block.yaml"
    file.write_text(body if "version:" in body else f"version: 1\n{body}")
    if re.search("^weight:", body, re.M):
        load_scheme("block.yaml", named)
        return
    recipe = load_recipe(file)
    make_plan(recipe, load_backend(recipe.target.backend))


def table(page: Path, heading: str) -> dict[str, list[str]]:
    """First column (without its backticks) -> the others, of the first table below a heading."""
    section = prose(page).partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in section.splitlines() if line.startswith("|")]
    return {row[0].strip().strip("`"): [cell.strip() for cell in row[1:]] for row in rows[2:]}


def test_keys_of_recipes_and_their_defaults(root: Path) -> None:
    found = table(root / "docs" / "recipes.md", "Keys")
    assert list(found) == list(FIELDS)
    defaults: dict[str, Any] = {f"passes.{stage}": [] for stage in STAGES} | {"description": ""}
    for section, options in (
        ("model", ModelOptions()),
        ("target", TargetOptions()),
        ("calibrate", CalibrateOptions()),
        ("check", CheckOptions()),
    ):
        for key, value in dataclasses.asdict(options).items():
            defaults[f"{section}.{key}"] = list(value) if isinstance(value, tuple) else value
    del defaults["check.speed"]
    defaults |= {
        f"check.speed.{key.replace('_', '-')}": value
        for key, value in dataclasses.asdict(SpeedLimit()).items()
    }
    yaml = YAML(typ="safe", pure=True)
    shown = {key: yaml.load(cells[0].strip("`")) for key, cells in found.items() if cells[0].startswith("`")}
    shown.pop("name", None)
    assert shown == {key: value for key, value in defaults.items() if key != "check.limits"}


def test_every_scheme_is_described(root: Path) -> None:
    rows = table(root / "docs" / "recipes.md", "Schemes")
    assert {name: load_scheme(name).description for name in list_schemes()}.items() <= {
        name: cells[0] for name, cells in rows.items() if cells
    }.items()


IR_BLOCKS = [(page, body) for page in PAGES for body in blocks(page, "text") if body.startswith("optcc.ir")]


@pytest.mark.parametrize(
    ("page", "body"), IR_BLOCKS, ids=lambda v: names(v) if isinstance(v, Path) else "graph"
)
def test_graphs_parse_and_print_the_same(page: Path, body: str) -> None:
    module = parse_module(body)
    check_ir(module)
    assert module_text(module) == body


def test_operators_and_types_are_listed(root: Path) -> None:
    page = root / "docs" / "ir.md"
    registered = {n for n in torch._C._dispatch_get_all_op_names() if n.startswith("optcc::")}
    rows = table(page, "Operators")
    assert {f"optcc::{name.split('.')[1]}" for name in rows} == registered
    for shown in rows:
        name, _, arguments = shown.partition("(")
        schema = getattr(torch.ops.optcc, name.split(".")[1]).default._schema
        given = [argument.partition("=")[0] for argument in arguments.rstrip(")").split(", ")]
        assert given == [argument.name for argument in schema.arguments], name
    line = next(line for line in page.read_text().splitlines() if line.startswith("`DTYPE` is one of"))
    assert re.findall(r"`(\w+)`", line)[1:] == list(DTYPES)


PYTHON_BLOCKS = [(page, body) for page in PAGES for body in blocks(page, "python")]


@pytest.mark.parametrize(
    ("page", "body"), PYTHON_BLOCKS, ids=lambda v: names(v) if isinstance(v, Path) else "code"
)
def test_python_imports_what_exists(page: Path, body: str) -> None:
    for node in ast.walk(ast.parse(body)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("optcc"):
            module = importlib.import_module(node.module)
            missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            assert missing == [], node.module


def test_the_factory_is_one(named: Path) -> None:
    made = call_factory(f"{named / 'gate.py'}:make")
    assert made.module(**made.example).shape == (4, 10)
    assert made.dims == {"points": ("B", 64)}


def test_the_rewrite_rule_does_what_its_golden_case_says(named: Path, root: Path, tmp_path: Path) -> None:
    golden = tmp_path / "case.ir"
    golden.write_text(
        next(b for b in blocks(root / "docs" / "passes-howto.md", "text") if b.startswith("////"))
    )
    (case,) = cases.read(golden)
    before, after, record = cases.build(case.before), cases.build(case.before), Record()
    run_pipeline(after, parse_pipeline(case.pipeline, named), Context(), [record, Check()])
    assert module_text(after) == case.after
    assert cases.movement(before, after) < 1e-5
    assert [miss.reason for miss in record.rows[0].misses] == ["%mul_2 is read by others too"]


def test_the_pass_of_the_readme_runs(root: Path, tmp_path: Path) -> None:
    body = next(b for b in blocks(root / "README.md", "python") if "class Clip" in b)
    (tmp_path / "clip.py").write_text(body)
    graph = next(b for b in blocks(root / "docs" / "ir.md", "text") if b.startswith("optcc.ir"))
    module = cases.build(graph)
    run_pipeline(module, parse_pipeline("./clip.py:Clip{most=0.25}", tmp_path), Context(), [Check()])
    assert float(module.weights["head.weight"].abs().max()) == 0.25
    assert interpret(module, cases.inputs(module)).keys() == {"logits", "hidden"}
