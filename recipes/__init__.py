"""recipes of optcc, imported as `optcc.recipes`."""

if __name__ != "optcc.recipes":
    raise ImportError(
        "import optcc.recipes, not recipes: under two names everything here would be registered twice"
    )
