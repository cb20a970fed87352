"""Where text comes from: the running Python's own texts, or the user's files; always as separate
documents."""

from __future__ import annotations

import importlib
import json
import re
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

from optcc.accuracy.chat import Message
from optcc.errors import BadCheckData, nearest

BUILT_IN = ("prose", "code", "chat")

# Only this much of a file is read: thousands of windows, and never a whole corpus in memory.
MAX_FILE_BYTES = 16 << 20
# A plain text file is cut at blank lines into documents of at least this many characters.
_TEXT_DOCUMENT = 2000

_MODULES = (
    "argparse", "ast", "base64", "bdb", "bisect", "calendar", "cmd", "codecs", "colorsys", "configparser",
    "contextlib", "copy", "csv", "dataclasses", "difflib", "dis", "enum", "fileinput", "filecmp",
    "fnmatch", "fractions", "ftplib", "functools", "getopt", "glob", "gzip", "hashlib", "heapq", "hmac",
    "imaplib", "inspect", "ipaddress", "linecache", "locale", "mailbox", "mimetypes", "netrc", "numbers",
    "optparse", "pdb", "pickle", "pickletools", "platform", "plistlib", "poplib", "pprint", "profile",
    "queue", "quopri", "random", "reprlib", "rlcompleter", "sched", "selectors", "shelve", "shlex",
    "shutil", "smtplib", "socket", "socketserver", "statistics", "string", "subprocess", "tabnanny",
    "tarfile", "tempfile", "textwrap", "threading", "timeit", "tokenize", "trace", "traceback", "turtle",
    "types", "typing", "uuid", "warnings", "wave", "weakref", "webbrowser", "zipapp", "zipfile",
)  # fmt: skip


def prose_documents() -> list[str]:
    """The topics of Python's own help text (`pydoc_data.topics`), one document each, without underlines."""
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError as error:
        raise BadCheckData(
            "this Python has no pydoc_data, which the text 'prose' is made of",
            hint="install the full standard library, or give a text file in check.data",
        ) from error
    return [_clean(topics[name]) for name in sorted(topics)]


def _clean(text: str) -> str:
    """Without heading underlines, trailing blanks and runs of blank lines."""
    text = re.sub(r"(?m)^[ \t]*([*=~^\-\"])\1{3,}[ \t]*$\n?", "", text)
    text = re.sub(r"(?m)[ \t]+$", "", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def code_documents() -> list[str]:
    """Sources of a fixed list of standard-library modules, one document each; modules this Python lacks are
    left out."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    paths = [folder / f"{name}.py" for name in _MODULES]
    found = [path.read_text("utf-8").strip() for path in paths if path.is_file()]
    if not found:
        raise BadCheckData(
            f"this Python has no sources in {folder}, which the text 'code' is made of",
            hint="install the standard library's sources, or give a text file in check.data",
        )
    return found


def file_documents(
    path: Path, *, name: str | None = None, render: Callable[[Sequence[Message]], str] | None = None
) -> list[str]:
    """Documents of a user's file.

    JSON lines (`.jsonl`, `.ndjson`): one document a line, `text`, or `messages` written by `render`.
    Anything else is plain text, cut at blank lines into documents of at least 2,000 characters. The first
    16 MiB are read.

    Raises:
        BadCheckData: no such file, not UTF-8, or a line that isn't what it should be.
    """
    shown = name or str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise BadCheckData(
            f"check data {shown!r} can't be read: {error.strerror or error}", hint=nearest(shown, BUILT_IN)
        ) from error
    try:
        text = _complete_lines(raw).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadCheckData(
            f"check data {shown!r} is not UTF-8 text (byte {error.start})", hint="convert it to UTF-8"
        ) from error
    if path.suffix.lower() in {".jsonl", ".ndjson"}:
        lines = enumerate(text.split("\n"), start=1)
        return [_json_document(line, f"{shown}:{number}", render) for number, line in lines if line.strip()]
    return _cut_text(text)


def _complete_lines(raw: bytes) -> bytes:
    """At most MAX_FILE_BYTES of the file, ending where a line ends if it was longer."""
    if len(raw) <= MAX_FILE_BYTES:
        return raw
    end = raw.rfind(b"\n", 0, MAX_FILE_BYTES)
    if end > 0:
        return raw[:end]
    return raw[:MAX_FILE_BYTES].decode("utf-8", errors="ignore").encode()


def _json_document(line: str, where: str, render: Callable[[Sequence[Message]], str] | None) -> str:
    hint = 'a line is {"text": "..."} or {"messages": [{"role": "user", "content": "..."}]}'
    try:
        record = json.loads(line)
    except ValueError as error:
        raise BadCheckData(f"not a line of JSON: {error}", where=where, hint=hint) from error
    if not isinstance(record, dict):
        raise BadCheckData("a line of JSON that is not an object", where=where, hint=hint)
    text, messages = record.get("text"), record.get("messages")
    if isinstance(text, str):
        return text
    if not isinstance(messages, list) or not all(_is_message(m) for m in messages):
        raise BadCheckData("neither a string `text` nor a list `messages`", where=where, hint=hint)
    if render is None:
        raise BadCheckData(
            "`messages` need a chat template and this model has none", where=where, hint="use `text` instead"
        )
    return render(messages)


def _is_message(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("role"), str)
        and isinstance(value.get("content"), str)
    )


def _cut_text(text: str) -> list[str]:
    """Paragraphs gathered to documents of at least _TEXT_DOCUMENT characters; the last may be shorter."""
    documents: list[str] = []
    gathered: list[str] = []
    size = 0
    for paragraph in re.split(r"\n[ \t\r]*\n", text):
        gathered.append(paragraph)
        size += len(paragraph)
        if size >= _TEXT_DOCUMENT:
            documents.append("\n\n".join(gathered))
            gathered, size = [], 0
    rest = "\n\n".join(gathered)
    return [*documents, rest] if rest.strip() else documents
