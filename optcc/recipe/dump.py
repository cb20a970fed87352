"""A resolved recipe back to YAML."""

from __future__ import annotations

import io

from ruamel.yaml import YAML

from optcc.recipe.schema import Recipe


def dump_recipe(recipe: Recipe) -> str:
    """YAML that loads to the same resolved recipe, with every default written out and no `extends`."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.representer.sort_base_mapping_type_on_output = False
    yaml.width = 110
    yaml.allow_unicode = True
    out = io.StringIO()
    yaml.dump(recipe.to_json(), out)
    return out.getvalue()
