"""Weights by name, memory-mapped.

A store never holds more than the tensor being worked on: what comes from a checkpoint stays in the checkpoint's file,
what a pass makes is written to a content-addressed file at once and mapped back. So the memory of a compile doesn't
grow with the model, and a finished pass can be resumed from a list of references.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from optcc.errors import CannotWrite, CorruptWeights
from optcc.files import writing
from optcc.ir.types import DTYPE_NAMES, DTYPES

UNREAD = Path("/dev/null")
"""The path of a tensor of which nothing but its type is known, and nothing else will be asked."""


@dataclass(frozen=True)
class TensorRef:
    """Where a tensor's bytes are.

    Attributes:
        path: the file, or None for a tensor held in memory (tests, small constants before they are spilled).
        offset, nbytes: the bytes in the file, little endian, contiguous.
        dtype, shape: as stored.
        cast_to: type to convert to when read; None keeps the stored type.
        digest: SHA-256 of the bytes, when known.
    """

    path: Path
    offset: int
    nbytes: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    cast_to: torch.dtype | None = None
    digest: str | None = None

    @property
    def read_dtype(self) -> torch.dtype:
        """The type a reader gets."""
        return self.cast_to or self.dtype

    def map(self) -> Tensor:
        """The tensor as stored, mapped read-only in spirit: writing to it changes private pages, never the file.

        Of an unread tensor, one on the meta device.
        """
        if self.path == UNREAD:
            return torch.empty(self.shape, dtype=self.dtype, device="meta")
        if self.nbytes == 0:
            return torch.zeros(self.shape, dtype=self.dtype)
        if not self.path.exists():
            raise CorruptWeights("weight file has disappeared", where=str(self.path))
        if self.path.stat().st_size < self.offset + self.nbytes:
            raise CorruptWeights("weight file is shorter than its index says", where=str(self.path))
        storage = torch.UntypedStorage.from_file(
            str(self.path), shared=False, nbytes=self.offset + self.nbytes
        )
        flat = torch.empty(0, dtype=torch.uint8).set_(storage)  # type: ignore[arg-type]
        return flat[self.offset : self.offset + self.nbytes].view(self.dtype).view(self.shape)

    def to_json(self) -> dict[str, object]:
        """Plain data that `from_json` reads back."""
        return {
            "path": str(self.path),
            "offset": self.offset,
            "nbytes": self.nbytes,
            "dtype": DTYPE_NAMES[self.dtype],
            "shape": list(self.shape),
            "cast_to": DTYPE_NAMES[self.cast_to] if self.cast_to else None,
            "digest": self.digest,
        }

    @classmethod
    def from_json(cls, data: dict[str, object]) -> TensorRef:
        """The reference that `to_json` wrote."""
        shape, offset, nbytes, cast, digest = (
            data[k] for k in ("shape", "offset", "nbytes", "cast_to", "digest")
        )
        assert isinstance(shape, list)
        assert isinstance(offset, int)
        assert isinstance(nbytes, int)
        return cls(
            path=Path(str(data["path"])),
            offset=offset,
            nbytes=nbytes,
            dtype=DTYPES[str(data["dtype"])],
            shape=tuple(int(n) for n in shape),
            cast_to=DTYPES[str(cast)] if cast else None,
            digest=str(digest) if digest else None,
        )


class WeightStore:
    """Named tensors, each a reference into some file.

    Args:
        directory: where new tensors are written, by content. A temporary directory when omitted.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._temporary = None if directory else tempfile.TemporaryDirectory(prefix="optcc-weights-")
        self.directory = directory or Path(self._temporary.name if self._temporary else ".")
        with writing(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
        self.refs: dict[str, TensorRef] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.refs

    def __iter__(self) -> Iterator[str]:
        return iter(self.refs)

    def __len__(self) -> int:
        return len(self.refs)

    def __getitem__(self, name: str) -> Tensor:
        """The tensor, mapped; converted (a copy) if the reference says so."""
        ref = self.refs[name]
        tensor = ref.map()
        return tensor.to(ref.cast_to) if ref.cast_to and ref.cast_to != ref.dtype else tensor

    def narrow(self, name: str) -> Tensor:
        """The tensor as stored where reading it only widens it: for who converts a piece at a time himself."""
        ref = self.refs[name]
        widens = torch.promote_types(ref.dtype, ref.read_dtype) == ref.read_dtype
        return ref.map() if widens else self[name]

    def spec(self, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
        """Type and shape without touching the bytes."""
        ref = self.refs[name]
        return ref.read_dtype, ref.shape

    def nbytes(self, name: str) -> int:
        """Size of the tensor as read."""
        dtype, shape = self.spec(name)
        return dtype.itemsize * torch.Size(shape).numel()

    def put(self, name: str, tensor: Tensor) -> None:
        """Write the tensor to a file named by its content and point `name` at it. Of one on the meta device, which
        comes of unread ones, only the type is kept.

        Raises:
            CannotWrite: the disk is full or not writable.
        """
        if tensor.is_meta:
            self.refs[name] = TensorRef(UNREAD, 0, 0, tensor.dtype, tuple(tensor.shape))
            return
        data = tensor.detach().contiguous().cpu()
        raw = memoryview(data.view(-1).view(torch.uint8).numpy()) if data.numel() else memoryview(b"")  # type: ignore[arg-type]
        digest = hashlib.sha256(raw).hexdigest()
        path = self.directory / f"{digest}.bin"
        # Written even if it is there: a damaged file of that name must not stay.
        _write_atomically(path, raw)
        self.refs[name] = TensorRef(path, 0, raw.nbytes, data.dtype, tuple(data.shape), None, digest)

    def declare(self, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        """A weight of which only the type is known; reading it gives zeros. For IR text without its weights."""
        self.refs[name] = TensorRef(Path("/dev/zero"), 0, 0, dtype, shape)

    def remove(self, name: str) -> None:
        """Forget the name; files stay, other modules may use them."""
        del self.refs[name]

    def rename(self, old: str, new: str) -> None:
        """Give a tensor another name, keeping its bytes where they are."""
        self.refs[new] = self.refs.pop(old)

    def cast(self, name: str, dtype: torch.dtype) -> None:
        """Read the tensor as `dtype` from now on, converting lazily."""
        self.refs[name] = replace(self.refs[name], cast_to=dtype)

    def unread(self) -> WeightStore:
        """A store of the same names and types in which no matrix can be read; vectors and numbers still can.

        Passes that only move or join weights run over it at once, whatever the size of the model.
        """
        other = self.clone()
        for name, ref in self.refs.items():
            if len(ref.shape) > 1:
                other.refs[name] = replace(ref, path=UNREAD, offset=0, nbytes=0, digest=None)
        return other

    def clone(self) -> WeightStore:
        """A store of the same references and the same directory."""
        other = WeightStore.__new__(WeightStore)
        other._temporary = self._temporary
        other.directory = self.directory
        other.refs = dict(self.refs)
        return other


def _write_atomically(path: Path, raw: memoryview) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(raw)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise CannotWrite(
            f"can't write a weight of {raw.nbytes / 1e6:.1f} MB: {error.strerror}",
            where=str(path.parent),
            hint="free some space or set OPTCC_CACHE to a directory on a larger disk",
        ) from error
