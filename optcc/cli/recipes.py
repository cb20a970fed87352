"""`optcc recipes`: the built-in recipes."""

from __future__ import annotations

import click

from optcc.cli.common import common_options, print_json, print_pairs


@click.command("recipes")
@common_options
def command(as_json: bool) -> None:
    """List the built-in recipes. Each name can be given to `optcc compile` or to `extends:`."""
    from optcc.recipe import list_presets, load_recipe

    found = {name: load_recipe(name) for name in list_presets()}
    if as_json:
        rows = [
            {
                "name": name,
                "description": recipe.description,
                "backend": recipe.target.backend,
                "device": recipe.target.device,
            }
            for name, recipe in found.items()
        ]
        print_json(rows)
        return
    print_pairs(((name, recipe.description) for name, recipe in found.items()), indent=0)
