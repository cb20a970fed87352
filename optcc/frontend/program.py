"""What the front end hands to the compiler: a captured graph, where its weights lie, and what the model
is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

Kind = Literal["decoder", "function"]
Dim = str | int


@dataclass(frozen=True)
class LoadOptions:
    """How to read a model: the `model:` section of a recipe.

    Attributes:
        dtype: what the graph computes in; floating-point weights are cast to it when they are used.
        max_context: shortens the model's context; None keeps what the model was made for.
        trust_remote_code: allow Python code that comes with the model to run.
        pooling: encoders only: how token vectors become one; None returns the token vectors.
        normalize: encoders only: scale the pooled vector to length 1.
    """

    dtype: str = "float32"
    max_context: int | None = None
    trust_remote_code: bool = False
    pooling: Literal["mean", "cls", "none"] = "none"
    normalize: bool = False

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as torch's own."""
        found = getattr(torch, self.dtype)
        assert isinstance(found, torch.dtype)
        return found


@dataclass(frozen=True)
class ModelSource:
    """A model that was found, with everything needed to read it again.

    Attributes:
        name: for people: directory name, file stem, hub id or factory.
        kind: how it is read. A GGUF file has become a directory by now.
        digest: SHA-256 over what was given (configuration and weights, or the GGUF file); of a factory, its
            source file.
        files: what was hashed.
        directory: transformers directory; None for a factory.
        factory: `package.module:name` or `path/file.py:name`; None for a directory.
    """

    name: str
    kind: Literal["directory", "factory"]
    digest: str
    files: tuple[Path, ...]
    directory: Path | None = None
    factory: str | None = None


@dataclass(frozen=True)
class WeightSource:
    """Where one weight lies: in a file (then it is only ever mapped), or in memory (small constants).

    Attributes:
        dtype: as stored.
        shape: as stored and as used.
        cast_to: what the graph expects, when that differs from `dtype`.
        path, offset, nbytes: the bytes in a file.
        value: the tensor, when it is not in a file.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    cast_to: torch.dtype | None = None
    path: Path | None = None
    offset: int = 0
    nbytes: int = 0
    value: Tensor | None = field(default=None, repr=False)

    def stored(self) -> Tensor:
        """The tensor as stored; from a file it is a private mapping, which costs no anonymous memory until
        written."""
        if self.value is not None:
            return self.value
        assert self.path is not None
        if self.nbytes == 0:
            return torch.empty(self.shape, dtype=self.dtype)
        raw = np.memmap(self.path, dtype=np.uint8, mode="c", offset=self.offset, shape=(self.nbytes,))
        data = torch.from_numpy(raw)
        if self.offset % self.dtype.itemsize:
            data = data.clone()  # an odd header length leaves the data unaligned; a copy is aligned again
        return data.view(self.dtype).view(self.shape)

    def load(self) -> Tensor:
        """The tensor as the graph expects it; a copy in memory only if it must be cast."""
        stored = self.stored()
        return stored if self.cast_to is None else stored.to(self.cast_to)


@dataclass(frozen=True)
class DecoderSpec:
    """A text decoder in numbers.

    Attributes:
        max_context: longest sequence, prompt and answer together, in tokens.
        eos_token_ids: every id that ends an answer, ascending.
        bos_token_id: what begins a text, if the model has one.
        tied: embedding and head are one weight.
    """

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    max_context: int
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    tied: bool


@dataclass(frozen=True)
class CapturedProgram:
    """A model as a graph, before any pass.

    Attributes:
        exported: training IR, not decomposed. Parameters are fake tensors: the values are in `weights`.
        weights: by the model's own name; one name per storage, only those the graph reads.
        placeholders: placeholder node of `exported.graph` -> name in `weights`.
        inputs: names of the caller's inputs, in order; each is a placeholder node of the same name.
        dims: per input, one name or number per axis, e.g. `("T",)` or `("R+1",)`.
        limits: largest size of a named dimension, where the model has one (an encoder's S).
        outputs: names, in the order of the graph's results.
        facts: what the model consists of, counted on its modules: `attentions`, `rms_norms`, `layer_norms`,
            `ropes`, `gated_mlps`, `linears`. A count that can't be known is left out.
    """

    exported: ExportedProgram
    weights: Mapping[str, WeightSource]
    placeholders: Mapping[str, str]
    inputs: tuple[str, ...]
    dims: Mapping[str, tuple[Dim, ...]]
    outputs: tuple[str, ...]
    kind: Kind
    spec: DecoderSpec | None
    source: ModelSource
    facts: Mapping[str, int]
    limits: Mapping[str, int] = field(default_factory=dict)
