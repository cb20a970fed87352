"""Dump: one numbered text file per pass, `000_captured.ir`, `001_canonicalize.constants.ir`, …"""

from __future__ import annotations

from pathlib import Path

from optcc.errors import OutputInTheWay
from optcc.files import writing
from optcc.ir.module import Module
from optcc.ir.text import module_text
from optcc.pm.context import Context
from optcc.pm.passes import Pass


class Dump:
    """Writes into `directory`, which must be empty or hold only earlier dumps; those are replaced.

    Raises:
        OutputInTheWay: the directory holds something else.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        present = list(directory.iterdir())
        foreign = [p for p in present if p.suffix != ".ir"]
        if foreign:
            raise OutputInTheWay(
                f"`{directory}` holds `{foreign[0].name}`, which is no IR dump",
                hint="name an empty directory",
            )
        for path in present:
            path.unlink()
        self._directory, self._count = directory, 0

    def before(self, step: Pass, module: Module, ctx: Context) -> bool:
        """Write the starting point once."""
        if self._count == 0:
            self._write("captured", module)
        return True

    def after(self, step: Pass, module: Module, ctx: Context, changed: bool) -> None:
        """Write what the pass left."""
        self._write(step.id.replace("/", "_").replace(":", "_"), module)

    def _write(self, name: str, module: Module) -> None:
        path = self._directory / f"{self._count:03}_{name}.ir"
        with writing(path):
            path.write_text(module_text(module))
        self._count += 1
