"""Build hook: compile the native operators while a wheel is made.

    wheel      compiled in a temporary folder and added to the wheel; the checkout stays untouched
    editable   compiled next to the sources, because that is where Python imports from
    sdist      nothing to do: the sources travel, and the wheel made from them runs this hook

A failed build is not a failed install. The wheel then holds build.json with the reason, and keeps the tag py3-none-any.
OPTCC_NATIVE=off doesn't try; OPTCC_NATIVE=require makes a failure an error.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Through the package, not the top-level folder: an sdist has only this path.
NATIVE = "optcc/backends/onnxruntime/native"


class NativeBuildHook(BuildHookInterface):
    """Adds the compiled operators to wheels and editable installs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before hatchling collects files. Raises SystemExit when OPTCC_NATIVE=require can't be met."""
        if self.target_name != "wheel":
            return
        folder = Path(self.root) / NATIVE
        native = _native(folder)
        # Kept on self: hatchling copies from it after this method returns. finalize() removes it;
        # if the build fails in between, Python does so when the build process ends.
        self.scratch = tempfile.TemporaryDirectory(prefix="optcc-native-")
        scratch = Path(self.scratch.name)
        library, record = scratch / native.LIBRARY, scratch / native.RECORD
        made = native.build(folder / "src", library, scratch)
        required = os.environ.get("OPTCC_NATIVE") == "require"
        if made.reason and required:
            raise SystemExit(f"OPTCC_NATIVE=require, but: {made.reason}")
        self.app.display_info(f"native operators: {'not built: ' + made.reason if made.reason else 'built'}")
        made.write(record)

        if version == "editable":
            try:
                native.install_in_tree(folder, library, made)
            except OSError as error:  # a read-only checkout
                if required:
                    raise
                self.app.display_warning(f"can't write {NATIVE}: {error.strerror}")
            return
        for path in [record] if made.reason else [record, library]:
            build_data["force_include"][str(path)] = f"{NATIVE}/{path.name}"
        if not made.reason:
            # Tied to the platform but not to a Python version: no Python header is involved.
            # (hatchling's own infer_tag would say cp311-cp311-...)
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{_platform_tag()}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """After the wheel is written."""
        if self.target_name == "wheel":
            self.scratch.cleanup()

    def clean(self, versions: list[str]) -> None:
        """For `hatchling build --clean-hooks-after`: undo an editable build."""
        folder = Path(self.root) / NATIVE
        native = _native(folder)
        for name in (native.LIBRARY, native.RECORD):
            (folder / name).unlink(missing_ok=True)


def _native(folder: Path) -> ModuleType:
    """build.py by its path: optcc itself can't be imported while it is being built."""
    spec = importlib.util.spec_from_file_location("optcc_native_build", folder / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _platform_tag() -> str:
    """For example linux_x86_64. Wheels for an index still go through auditwheel to become manylinux."""
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")
