"""The verbs of `optcc export`, one file each."""
