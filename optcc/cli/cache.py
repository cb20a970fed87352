"""`optcc cache`: what the cache holds, and how to empty it."""

from __future__ import annotations

from pathlib import Path

import click

from optcc.cli.common import common_options, human_bytes, print_json, print_pairs

_KINDS = {
    "passes": "finished passes",
    "scratch": "unfinished passes",
    "tensors": "tensors that passes made",
    "converted": "converted GGUF files",
    "chat": "answers to the built-in prompts",
}

cache_option = click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Another cache than $OPTCC_CACHE or ~/.cache/optcc.",
)


@click.group("cache", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Show what the cache holds, or empty it."""


@command.command("show")
@cache_option
@common_options
def show(cache: Path | None, as_json: bool) -> None:
    """Show what the cache holds and its limit.

    A compile that ends removes what was used longest ago until the cache is below $OPTCC_CACHE_LIMIT (20 GB).
    """
    from optcc.cache import cache_limit, contents, default_cache

    root, limit = cache or default_cache(), cache_limit()
    items = contents(root)
    total = sum(item.bytes for item in items)
    rows = {kind: [item.bytes for item in items if item.kind == kind] for kind in _KINDS}
    if as_json:
        kinds = {kind: {"count": len(sizes), "bytes": sum(sizes)} for kind, sizes in rows.items()}
        print_json({"path": str(root), "kinds": kinds, "bytes": total, "limit": limit})
        return
    click.echo(str(root))
    counted = ((_KINDS[kind], f"{len(sizes):,}, {human_bytes(sum(sizes))}") for kind, sizes in rows.items())
    print_pairs([*counted, ("in all", f"{human_bytes(total)} of {human_bytes(limit)}")])


@command.command("clear")
@cache_option
@common_options
def clear(cache: Path | None, as_json: bool) -> None:
    """Remove everything that optcc keeps in the cache; other files stay.

    Exits 2 while a compile is using it.
    """
    from optcc.cache import clear as clear_cache
    from optcc.cache import default_cache

    root = cache or default_cache()
    freed = clear_cache(root)
    if as_json:
        print_json({"path": str(root), "removed": freed})
    else:
        click.echo(f"{root}: {human_bytes(freed)} removed")
