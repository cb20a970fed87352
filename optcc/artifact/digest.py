"""SHA-256 of files and the one spelling of JSON that digests are taken over."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from optcc.errors import OptccError


def canonical_json(value: Any) -> bytes:
    """`value` as JSON in its only spelling: sorted keys, 2-space indent, UTF-8, a final newline.

    Raises ValueError for NaN and infinities, which JSON doesn't have.
    """
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in chunks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


PIECE = 16 << 20
"""Bytes of a large file that are hashed by themselves, so that several threads can check it at once."""


def sha256_pieces(path: Path) -> tuple[str, ...]:
    """Hexadecimal SHA-256 of every `PIECE` bytes of a file, hashed side by side; none of an empty file."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:  # nothing can't be mapped
            return ()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:

            def digest(start: int) -> str:
                with view[start : start + PIECE] as piece:
                    return hashlib.sha256(piece).hexdigest()

            with ThreadPoolExecutor(_workers()) as pool:
                return tuple(pool.map(digest, range(0, size, PIECE)))


def _workers() -> int:
    return min(8, os.cpu_count() or 1)


def sha256_files(paths: Iterable[Path]) -> list[str | OSError]:
    """Digests of several files, hashed side by side; the error in place of a file that can't be read."""

    def digest(path: Path) -> str | OSError:
        try:
            return sha256_file(path)
        except OSError as error:
            return error

    with ThreadPoolExecutor(_workers()) as pool:
        return list(pool.map(digest, paths))


def sealed(body: Mapping[str, Any]) -> bytes:
    """Canonical JSON of `body` with a `digest` field that covers all the rest of it."""
    return canonical_json({**body, "digest": sha256_bytes(canonical_json(dict(body)))})


def unseal(data: bytes, where: str, error: type[OptccError]) -> dict[str, Any]:
    """The inverse of `sealed`, without the digest. Raises `error` unless every byte is as written."""
    hint = "copy it again, or rebuild it"
    try:
        body = json.loads(data.decode())
    except (ValueError, RecursionError) as cause:
        raise error("not valid JSON: the file is damaged", where=where, hint=hint) from cause
    if not isinstance(body, dict) or not isinstance(body.pop("digest", None), str):
        raise error("there is no digest: the file is damaged", where=where, hint=hint)
    # Comparing the whole spelling covers whitespace, key order and the digest itself.
    try:
        intact = sealed(body) == data
    except ValueError:
        intact = False
    if not intact:
        raise error("the digest doesn't match the content", where=where, hint=hint)
    return body
