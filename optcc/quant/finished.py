"""Weights that a calibration has finished, kept on disk so that a killed one goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from optcc.files import write_atomic
from optcc.ir.module import Json
from optcc.ir.weights import TensorRef, WeightStore
from optcc.quant.rounding import PackedWeight


@dataclass(frozen=True)
class Quantized:
    """A quantized weight, and what it cost.

    Attributes:
        packed: the weight.
        measured: what the report says about it.
    """

    packed: PackedWeight
    measured: dict[str, Json]


class Finished:
    """A folder of weights by name.

    Args:
        folder: of one pass with given options on a given input, so that the name alone says what a weight becomes. None
            keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._tensors = WeightStore(folder / "tensors") if folder else None

    def get(self, name: str, make: Callable[[], Quantized]) -> Quantized:
        """What was saved under a name; made and saved when there is nothing. Raises CannotWrite."""
        done = self.load(name)
        if done is None:
            done = make()
            self.save(name, done)
        return done

    def load(self, name: str) -> Quantized | None:
        """What was saved under a name, or None when there is nothing whole."""
        if self._folder is None:
            return None
        try:
            data = json.loads(self._file(self._folder, name).read_bytes())
            refs = {part: TensorRef.from_json(ref) for part, ref in data["tensors"].items()}
            if not all(_is_whole(ref) for ref in refs.values()):
                return None
            parts: dict[str, Tensor] = {part: ref.map() for part, ref in refs.items()}
            return Quantized(PackedWeight(**parts), data["measured"])
        except (OSError, ValueError, KeyError, TypeError):
            return None  # a damaged file is as good as none

    def save(self, name: str, done: Quantized) -> None:
        """Keep a weight; whole or not at all. Raises CannotWrite."""
        if self._folder is None or self._tensors is None:
            return
        refs = {}
        for part, tensor in done.packed.tensors().items():
            self._tensors.put(part, tensor)
            refs[part] = self._tensors.refs[part].to_json()
        content = json.dumps({"tensors": refs, "measured": done.measured})
        write_atomic(self._file(self._folder, name), content.encode())

    @staticmethod
    def _file(folder: Path, name: str) -> Path:
        return folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"


def _is_whole(ref: TensorRef) -> bool:
    return not ref.nbytes or hashlib.sha256(ref.path.read_bytes()).hexdigest() == ref.digest
