"""Errors of recipes and of what they name: E1xx. `optcc.errors` has them all, and says what an error is.

This module imports nothing but the standard library: `optcc --help` and `optcc run` load it.
"""

from __future__ import annotations

from optcc.error import OptccError


class RecipeNotFound(OptccError):
    """Recipe not found.

    The name is neither a file nor a built-in preset. `optcc recipes` lists the presets; a path is taken relative to
    the current directory, and inside `extends:` relative to the file that says it.
    """

    code = "E101"


class RecipeSyntax(OptccError):
    """The recipe is not valid YAML.

    The message points at the line and column where reading stopped. Tabs for indentation and a missing space after a
    colon are the usual causes.
    """

    code = "E102"


class RecipeField(OptccError):
    """A recipe key is unknown, missing, or has the wrong type.

    The message names the line, the key and the nearest valid one. Nothing is ignored: a misspelt key would silently
    change what is compiled.
    """

    code = "E103"


class UnknownPass(OptccError):
    """No pass has this id.

    A pass id is its path: `fuse.qkv` is `passes/fuse/qkv.py`. Passes of your own are named
    `path/to/file.py:ClassName`, or come from an installed package through the entry-point group `optcc.passes`.
    `optcc passes list` prints all of them.
    """

    code = "E104"


class UnknownOption(OptccError):
    """The pass has no option of this name.

    `optcc passes show ID` prints the options with their types and defaults.
    """

    code = "E105"


class BadOption(OptccError):
    """An option has a value of the wrong type or out of range.

    `optcc passes show ID` prints what each option accepts.
    """

    code = "E106"


class UnknownScheme(OptccError):
    """No quantization scheme has this name.

    Schemes are YAML files in `recipes/schemes/`, or a path to a file of your own.
    """

    code = "E107"


class ExtendsCycle(OptccError):
    """Recipes extend each other in a circle.

    The message prints the chain. Remove one `extends:`.
    """

    code = "E108"


class BadOverride(OptccError):
    """A `--set` is not of the form KEY=VALUE, or KEY names nothing in the recipe.

    KEY is a path of the recipe (`check.tokens`) or a pass id and an option (`quantize.linear.scheme`). VALUE is read
    as YAML.
    """

    code = "E109"


class BadSetting(OptccError):
    """An environment variable holds a value that can't be used.

    The message names it; `optcc cache --help` and the documentation say what it may hold.
    """

    code = "E110"
