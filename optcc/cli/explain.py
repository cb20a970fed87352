"""`optcc explain`: the page of an error code."""

from __future__ import annotations

import inspect

import click

from optcc.cli.common import common_options, print_json, print_pairs
from optcc.errors import OptccError, all_errors, nearest


def page(error: type[OptccError]) -> tuple[str, str]:
    """The title (without its period) and the text of an error's page, from its docstring."""
    title, _, text = inspect.cleandoc(error.__doc__ or "").partition("\n\n")
    return title.removesuffix("."), text


@click.command("explain")
@click.argument("code", required=False)
@common_options
def command(code: str | None, as_json: bool) -> None:
    """Explain an error code: what happened, the usual causes, what to do.

    Without CODE, list all of them.
    """
    known = {error.code: error for error in all_errors()}
    if code is None:
        titles = {number: page(error)[0] for number, error in known.items()}
        print_json(titles) if as_json else print_pairs(titles.items(), indent=0)
        return
    wanted = code.upper() if code.upper().startswith("E") else f"E{code}"
    if wanted not in known:
        raise click.BadParameter(f"no error code {code!r}: {nearest(wanted, known)}", param_hint="CODE")
    error = known[wanted]
    title, text = page(error)
    if as_json:
        print_json({"code": wanted, "title": title, "text": text, "exit_code": error.exit_code})
    else:
        click.echo(f"{wanted}: {title}\n\n{text}\n\nExit code {error.exit_code}.")
