"""`optcc passes`: list the passes, show one, or explain why one didn't apply."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

import click

from optcc.cli.common import common_options, print_json
from optcc.cli.options import overrides_option

if TYPE_CHECKING:
    from optcc.compile.plan import Plan
    from optcc.pm import Pass
    from optcc.pm.instruments import PassRecord
    from optcc.recipe import Recipe


@click.group("passes", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """List the passes, show one, or explain why one didn't apply."""


@command.command("list")
@common_options
def list_passes(as_json: bool) -> None:
    """List every pass that recipes can name, with one line about each."""
    from optcc.pm.discover import load_pass, pass_ids

    found = {name: first_line(load_pass(name)) for name in pass_ids()}
    if as_json:
        print_json([{"id": name, "does": line} for name, line in found.items()])
        return
    click.echo("\n".join(_grouped(found)))


def first_line(cls: type[Pass]) -> str:
    """The first sentence of a pass's documentation, on one line."""
    paragraph = inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0]
    return " ".join(paragraph.split())


def _grouped(found: dict[str, str]) -> list[str]:
    """Ids by stage, each with as much of its line as fits into 100 columns."""
    width = max(map(len, found), default=0)
    lines: list[str] = []
    stage = ""
    for name, does in found.items():
        head = name.partition(".")[0]
        if head != stage:
            lines += [""] * bool(lines) + [head]
            stage = head
        room = 100 - width - 4
        lines.append(f"  {name:<{width}}  {does if len(does) <= room else does[: room - 1] + '…'}")
    return lines


@command.command("show")
@click.argument("name", metavar="ID")
@common_options
def show(name: str, as_json: bool) -> None:
    """Show what the pass ID does, and its options. ID may be path/to/file.py:ClassName."""
    from optcc.pm.discover import load_pass
    from optcc.pm.options import option_names, option_type, show_value

    cls = load_pass(name)
    doc, told = split_doc(cls)
    rows: list[dict[str, Any]] = []
    for option, field in option_names(cls).items():
        kind = option_type(cls, option)
        required = field.default is dataclasses.MISSING
        shown = None if required else show_value(field.default)
        row = {"name": option, "type": _type_name(kind), "default": shown, "required": required}
        rows.append({**row, "does": told.get(option, "")})
    rules = [rule.name for rule in getattr(cls, "rules", ())]
    if as_json:
        print_json({"id": cls.id, "doc": doc, "contract": str(cls.contract), "options": rows, "rules": rules})
        return
    click.echo(f"{click.style(cls.id, bold=True)}\n\n{doc}\n")
    click.echo(f"contract: {cls.contract}\n")
    if rules:
        click.echo("rules\n  " + "\n  ".join(rules) + "\n")
    click.echo("options" if rows else "options: none")
    for row in rows:
        default = "required" if row["required"] else f"default {row['default']}"
        click.echo(f"  {click.style(row['name'], bold=True)}: {row['type']}, {default}")
        if row["does"]:
            click.echo(f"      {row['does']}")


def split_doc(cls: type[Pass]) -> tuple[str, dict[str, str]]:
    """A pass's documentation without its list of options, and what that list says of each."""
    doc, _, listed = inspect.cleandoc(cls.__doc__ or "").partition("\nOptions:\n")
    told: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc(listed).splitlines():
        if not line.startswith(" ") and ":" in line:
            name, _, line = line.partition(":")
        told[name] = f"{told.get(name, '')} {line.strip()}".strip()
    return doc.strip(), told


def _type_name(kind: Any) -> str:
    """`int`, or `list of str`."""
    inner = getattr(kind, "__args__", None)
    return f"list of {inner[0].__name__}" if inner else str(getattr(kind, "__name__", kind))


@command.command("why")
@click.argument("name", metavar="PASS")
@click.argument("model")
@click.argument("recipe")
@overrides_option
@common_options
def why(name: str, model: str, recipe: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Explain where PASS nearly applied to MODEL under RECIPE, and what kept it from doing so.

    Runs the recipe's passes up to PASS; nothing is lowered and nothing is written.
    """
    from optcc.cli.progress import progress
    from optcc.recipe import load_recipe

    resolved = load_recipe(recipe, overrides)
    with progress(quiet=as_json) as watch:
        watch.stage("capture")
        record = _run_up_to(name, model, resolved)
    if as_json:
        print_json(record.to_json())
        return
    _tell(record)


def _run_up_to(name: str, model: str, recipe: Recipe) -> PassRecord:
    """What the pass called `name` did; of several, the last. Raises UnknownPass when the recipe has none."""
    from optcc.backends.registry import load_backend
    from optcc.compile.plan import make_plan
    from optcc.compile.survey import captured, load_options
    from optcc.frontend import resolve
    from optcc.pm.context import Context
    from optcc.pm.instruments import Record
    from optcc.pm.run import run_pass

    backend = load_backend(recipe.target.backend)
    steps = _steps(make_plan(recipe, backend), name, recipe.name)
    load = load_options(recipe)
    module = captured(resolve(model, load), load)
    ctx, record = Context(backend.name, recipe.target.threads, base=recipe.base), Record()
    for step in steps:
        run_pass(module, step, ctx, [record])
    return record.rows[-1]


def _steps(plan: Plan, name: str, recipe: str) -> list[Pass]:
    from optcc.errors import UnknownPass, nearest
    from optcc.pm.discover import load_pass

    steps = list(plan.pipeline)
    places = [i for i, step in enumerate(steps) if step.id == name]
    if not places:
        load_pass(name)  # a pass that doesn't exist is a different mistake
        hint = nearest(name, {step.id for step in steps}) if steps else "it runs no passes at all"
        raise UnknownPass(f"the recipe {recipe} doesn't run `{name}`", hint=hint)
    return steps[: places[-1] + 1]


def _tell(record: PassRecord) -> None:
    applied = [
        f"{rule} {count} times" if count != 1 else f"{rule} once"
        for rule, count in record.hits.items()
        if count
    ]
    idle = [rule for rule, count in record.hits.items() if not count]
    click.echo(click.style(record.step, bold=True))
    click.echo(f"  applied: {', '.join(applied) or ('yes' if record.changed else 'nowhere')}")
    for note in record.notes:
        click.echo(f"  note: {note}")
    if idle:
        click.echo(f"  never applied: {', '.join(idle)}")
    if not record.misses:
        click.echo("  no near misses: no other place looks like what it rewrites")
        return
    click.echo(f"  near misses: {len(record.misses)}")
    groups: dict[tuple[str, str], list[str]] = {}
    for miss in record.misses:
        groups.setdefault((miss.rule, _general(miss.reason, miss.node)), []).append(
            f"%{miss.node}" + (f" at {miss.source}" if miss.source else "")
        )
    for (rule, reason), places in groups.items():
        click.echo(f"\n  {click.style(rule, bold=True)}: {reason}")
        for place in places:
            click.echo(f"    {place}")


def _general(reason: str, node: str) -> str:
    """The reason without the node's own name, so that equal places read alike."""
    return reason.replace(f"%{node} ", "it ")
