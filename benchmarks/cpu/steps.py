"""Steps of set-up: each a command that is run once, logged, and skipped while nothing it depends on has changed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Tell = Callable[[str], None]

_LAST_WORDS = 300
"""Characters of a failed step's log that its message carries."""


class SetUpFailed(Exception):
    """A step can't be done; the text says which one, why, and where its log is."""


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: also of its log and stamp.
        command: program and arguments; a path that changes changes the stamp.
        output: file or folder that must exist afterwards.
        reads: files whose content the result depends on; pins, for one.
        facts: other text that it depends on.
        env: what is added to the environment.
        hint: what to do when it fails.
    """

    name: str
    command: tuple[str, ...]
    output: Path
    reads: tuple[Path, ...] = ()
    facts: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    hint: str = ""

    def key(self, before: str) -> str:
        """Hash of everything the result depends on; `before` is the key of the step it follows."""
        content = [hashlib.sha256(path.read_bytes()).hexdigest() for path in self.reads]
        known = [before, list(self.command), sorted(self.env.items()), content, self.facts]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def run_steps(folder: Path, steps: Sequence[Step], tell: Tell, before: str = "") -> str:
    """Do what isn't done, in order; stamps and logs go to `folder`. Returns the last step's key.

    A step that follows one that was redone is redone as well, since its key contains the earlier one's.

    Raises:
        SetUpFailed: a command failed or left no output.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key = before
    for step in steps:
        key = step.key(key)
        stamp = folder / f"{step.name}.stamp"
        if step.output.exists() and stamp.is_file() and stamp.read_text() == key:
            continue
        stamp.unlink(missing_ok=True)
        tell(f"{folder.name}: {step.name}")
        _run(step, folder)
        stamp.write_text(key)
    return key


def _run(step: Step, folder: Path) -> None:
    log = folder / f"{step.name}.log"
    with log.open("w", encoding="utf-8") as file:
        file.write(" ".join(step.command) + "\n")
        file.flush()
        try:
            code = subprocess.run(
                step.command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **step.env},
            ).returncode
        except OSError as error:
            raise SetUpFailed(_message(step, f"can't be started: {error}", log)) from error
    if code != 0:
        raise SetUpFailed(_message(step, f"exit {code}: {_last_words(log)}", log))
    if not step.output.exists():
        raise SetUpFailed(_message(step, f"left no {step.output.name}", log))


def _message(step: Step, reason: str, log: Path) -> str:
    """The log relative to the folder of all peers: messages end up in results, which hold no machine's paths."""
    return f"step `{step.name}` failed ({reason}); log: {log.parent.name}/{log.name}" + (
        f"; {step.hint}" if step.hint else ""
    )


def _last_words(log: Path) -> str:
    """The last line that says something; pip's own advice and blank lines don't."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    told = [line for line in lines[1:] if line and not line.startswith(("[notice]", "[end of output]"))]
    return told[-1][:_LAST_WORDS] if told else "it printed nothing"
