"""passes of optcc, imported as `optcc.passes`."""

if __name__ != "optcc.passes":
    raise ImportError(
        "import optcc.passes, not passes: under two names everything here would be registered twice"
    )
