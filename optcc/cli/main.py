"""The `optcc` command: the table of verbs, and what becomes of every error.

Exit codes: 0 good, 1 a check failed, 2 the input is wrong, 3 a bug of optcc, 130 interrupted, 141 the
reader of the output went away. With `--json` an error is `{"error": {...}}` on stdout, so that a caller
parses one stream.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import click

from optcc import __version__
from optcc.cli.common import Json, print_json
from optcc.cli.lazy import LazyGroup
from optcc.errors import OptccError

INTERNAL, INTERRUPTED, READER_GONE = 3, 130, 141

VERBS = {
    "compile": "Compile a model with a recipe into a checked artifact.",
    "plan": "Print the passes a compile would run, and what stands in its way.",
    "passes": "List the passes, show one, or explain why one didn't apply.",
    "run": "Generate text with an artifact.",
    "check": "Measure an artifact against the original model.",
    "blame": "Find the layers and weights that carry the loss.",
    "bisect": "Find the pass that broke a model.",
    "bench": "Measure how fast an artifact is.",
    "report": "Write an artifact's report as HTML, Markdown, JUnit XML or JSON.",
    "diff": "Show what differs between two artifacts.",
    "inspect": "Show what an artifact holds and how it came about.",
    "rebuild": "Compile what an artifact was made from again, and compare every byte.",
    "verify": "Check every byte of an artifact against its hashes.",
    "cache": "Show what the cache holds, or empty it.",
    "export": "Write an artifact as a checkpoint that other tools load.",
    "recipes": "List the built-in recipes.",
    "env": "Show this machine, the installed packages and the backends.",
    "explain": "Explain an error code.",
}

HELP = """Compile PyTorch models, and prove that they are still right.

\b
  optcc compile MODEL cpu-int8 -o build/model
  optcc run build/model "Name the capital of France."
"""

root = LazyGroup("optcc", package="optcc.cli", verbs=VERBS, help=HELP)
root = click.version_option(__version__, prog_name="optcc", message="%(prog)s %(version)s")(root)


@dataclass(frozen=True)
class Failure:
    """How an error is told: as JSON on stdout or as text on stderr, with or without the trace."""

    as_json: bool
    debug: bool

    @classmethod
    def read(cls, args: Sequence[str]) -> Failure:
        """What the arguments ask for. They are read raw, since parsing them may be what fails."""
        flags = set(takewhile(lambda word: word != "--", args))
        return cls(as_json="--json" in flags, debug="--debug" in flags)

    def expected(self, error: OptccError) -> int:
        """An error that optcc can explain."""
        if self.debug:
            _trace(error)
        found = (error, *error.others)
        if self.as_json:
            several = {"problems": [dict(e.to_json()) for e in found]} if error.others else {}
            print_json({"error": dict(error.to_json()), **several})
            return error.exit_code
        for one in found:
            tell_error(one)
        return error.exit_code

    def usage(self, error: click.ClickException) -> int:
        """A wrong command line."""
        if self.as_json:
            print_json(
                {"error": {"code": "usage", "what": error.format_message(), "where": None, "hint": None}}
            )
        else:
            error.show()
        return error.exit_code

    def unexpected(self, error: Exception) -> int:
        """A bug: one line, and the trace in a file; on stderr if asked for or if no file can be written."""
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        trace = None if self.debug else _write_trace(error)
        if trace is None:
            _trace(error)
        if self.as_json:
            details: dict[str, Json] = {"code": "internal", "what": what, "where": trace, "hint": None}
            print_json({"error": details})
            return INTERNAL
        _say("internal error: ", what)
        click.echo("   this is a bug of optcc; please report it with the trace", err=True)
        click.echo(f"  trace: {trace or 'above'}", err=True)
        return INTERNAL


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: `sys.argv`) and return its exit code. Never raises."""
    # Read when torch loads its thread library. Its threads spin while they wait by default, which on a busy machine
    # makes small operators ten times slower; measured with two processes on two cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    args = list(sys.argv[1:] if argv is None else argv)
    failure, stdout = Failure.read(args), sys.stdout
    try:
        result = root.main(args=args, prog_name="optcc", standalone_mode=False)
        sys.stdout.flush()
    except OptccError as error:
        return failure.expected(error)
    except click.exceptions.Abort:
        return INTERRUPTED
    except click.ClickException as error:
        return failure.usage(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return _reader_gone()
    except SystemExit as stop:
        if sys.stdout is not stdout:  # click has met a broken pipe: it wraps the stream and exits
            return _reader_gone()
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception as error:
        return failure.unexpected(error)
    return result if isinstance(result, int) else 0  # ctx.exit(n) arrives as a value


def tell_error(error: OptccError) -> None:
    """An error on stderr: what happened, where, what to do."""
    _say(f"error [{error.code}]: ", error.what)
    if error.where:
        click.echo(f"     at: {error.where}", err=True)
    if error.hint:
        click.echo(f"   hint: {error.hint}", err=True)
    click.echo(f"   more: optcc explain {error.code}", err=True)


def _say(label: str, text: str) -> None:
    plain = "NO_COLOR" in os.environ
    click.echo(label if plain else click.style(label, fg="red", bold=True), err=True, nl=False)
    click.echo(text, err=True)


def _trace(error: BaseException) -> None:
    click.echo("".join(traceback.format_exception(error)), err=True, nl=False)


def _write_trace(error: BaseException) -> str | None:
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="optcc-trace-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.writelines(traceback.format_exception(error))
    except OSError:
        return None
    return file.name


def _reader_gone() -> int:
    """End quietly: the interpreter flushes stdout at exit and would complain about the pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return READER_GONE
