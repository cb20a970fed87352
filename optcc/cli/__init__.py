"""The command line: one file per verb, imported when the verb is used.

`optcc --help` reads only `main`, `lazy` and `common`, so it answers before torch or numpy could be loaded.
Results go to stdout, progress and logs to stderr; every verb takes `--json`.
"""
