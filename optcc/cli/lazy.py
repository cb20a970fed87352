"""A click group that imports a verb's module when the verb is used."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

import click

from optcc.errors import nearest


class LazyGroup(click.Group):
    """Verbs by name; each lives in `<package>.<verb>` as a click command called `command`.

    The one-line helps stand in the table, not in the modules, because printing them must not import anything.
    A test holds the table and the modules together.
    """

    def __init__(self, name: str, *, package: str, verbs: Mapping[str, str], help: str) -> None:
        """`verbs` maps a verb to its one-line help, in the order in which they are listed."""
        super().__init__(name=name, help=help, context_settings={"help_option_names": ["-h", "--help"]})
        self._package = package
        self._verbs = dict(verbs)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in the table's order."""
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb and return its command; None if there is no such verb."""
        if cmd_name not in self._verbs:
            return None
        command = import_module(f"{self._package}.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As in click, but an unknown verb is answered with the nearest known ones."""
        name = args[0]
        if name not in self._verbs and not name.startswith("-"):
            raise click.UsageError(f"no verb {name!r}: {nearest(name, self._verbs)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs from the table, without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(self._verbs.items()))
