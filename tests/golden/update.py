"""Rewrite all golden files: `python -m tests.golden.update`. Review the difference before you commit it."""

from __future__ import annotations

from tests.golden.cases import FOLDER, rewrite

if __name__ == "__main__":
    for path in sorted(FOLDER.glob("*.ir")):
        rewrite(path)
