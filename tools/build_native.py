"""Compile the native operators in the checkout, as an editable install does: `python -m tools.build_native`.

Does nothing when they were built from the same sources. OPTCC_NATIVE=require makes a failed build exit with 1;
otherwise its reason is printed and kept. `--force` builds whatever is there.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from optcc.backends.onnxruntime.native import build as native

FOLDER = Path(native.__file__).parent


def current() -> bool:
    """Whether a build of these sources is there."""
    try:
        record = json.loads((FOLDER / native.RECORD).read_text())
    except (OSError, ValueError):
        return False
    built = (FOLDER / native.LIBRARY).is_file()
    return built and not record["reason"] and record.get("sources") == native.digest_of(FOLDER / "src")


def main(force: bool) -> int:
    """Build, say what happened; the exit status."""
    if current() and not force:
        print("native operators: up to date")
        return 0
    with tempfile.TemporaryDirectory(prefix="optcc-native-") as scratch:
        library = Path(scratch) / native.LIBRARY
        made = native.build(FOLDER / "src", library, Path(scratch))
        native.install_in_tree(FOLDER, library, made)
    print(
        f"native operators: {f'not built: {made.reason}' if made.reason else f'built with {made.compiler}'}"
    )
    return int(bool(made.reason) and os.environ.get("OPTCC_NATIVE") == "require")


if __name__ == "__main__":
    sys.exit(main("--force" in sys.argv[1:]))
