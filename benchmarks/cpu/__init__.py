"""optcc against other engines on this machine's CPU: one command that sets them up, runs them in turn, and compares.

Importing this package imports the standard library only: workers run under the Python of the engine they drive.
"""
