"""The commands behind a report's figures, ready to be typed."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from optcc.report.shape import ReportJson


@dataclass(frozen=True)
class Commands:
    """Commands with the names that the compile was given; `ARTIFACT` and `MODEL` where they aren't known."""

    artifact: str
    model: str
    made: str | None

    @property
    def check(self) -> str:
        """Measures accuracy again."""
        return f"optcc check {self.artifact} {self.model}"

    @property
    def bench(self) -> str:
        """Measures speed properly."""
        return f"optcc bench offline {self.artifact}"

    @property
    def inspect(self) -> str:
        """Shows passes, files and weights."""
        return f"optcc inspect {self.artifact}"

    @property
    def ledger(self) -> str:
        """Lists every weight with its storage and error."""
        return f"optcc inspect {self.artifact} --ledger"

    @property
    def verify(self) -> str:
        """Checks every byte."""
        return f"optcc verify {self.artifact}"

    @property
    def rebuild(self) -> str:
        """Gives the same bytes again, or says what differs."""
        return f"optcc rebuild {self.artifact} {self.model} -o AGAIN"


def commands(report: ReportJson) -> Commands:
    """The commands of one report."""
    asked = report.get("command")
    if asked is None:
        return Commands("ARTIFACT", "MODEL", None)
    words = ["optcc", "compile", asked["model"], asked["recipe"], "-o", asked["out"], *asked["options"]]
    return Commands(shlex.quote(asked["out"]), shlex.quote(asked["model"]), shlex.join(words))
