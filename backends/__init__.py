"""backends of optcc, imported as `optcc.backends`."""

if __name__ != "optcc.backends":
    raise ImportError(
        "import optcc.backends, not backends: under two names everything here would be registered twice"
    )
