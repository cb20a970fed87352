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
        digest: SHA-256 over what was given (configuration and weights, the GGUF or .pt2 file); of a factory, its
            source file with what it returns.
        files: what was hashed.
        directory: transformers directory; None for other kinds.
        factory: `package.module:name` or `path/file.py:name`; None for other kinds.
        program: a `.pt2` file; None for other kinds.
        shape_only: only the configuration is there: the graph can be captured, no weight can be read.
        layers: how many layers to capture of such a model; 0 for all.
    """

    name: str
    kind: Literal["directory", "factory", "program"]
    digest: str
    files: tuple[Path, ...]
    directory: Path | None = None
    factory: str | None = None
    program: Path | None = None
    shape_only: bool = False
    layers: int = 0


@dataclass(frozen=True)
class ActivationRule:
    """How a quantized checkpoint wants the input of a linear rounded.

    Attributes:
        format: number format of one value.
        group: channels of a token that share a scale; 0 is the whole token.
        scale: type of the scales.
        static: one scale for the whole tensor, which the checkpoint holds.
    """

    format: str
    group: int = 0
    scale: str = "float32"
    static: bool = False


@dataclass(frozen=True)
class PackedSource:
    """A weight [O, K] that its checkpoint holds quantized, in the layout of `optcc.ir.ops.quantized`.

    Attributes:
        format, group, rows: as the operator `optcc::dequantize` takes them.
        packed, scale, zero, tensor_scale: its tensors.
        order: i64[K], or None: column j of the packed weight multiplies channel order[j] of the input.
        factor: f32[K], or None: the input is multiplied by it before anything else.
        activation: how the input is rounded, or None.
        input_scale: f32[1]: the scale of a static activation, or the one that multiplies two-level scales.
    """

    format: str
    group: int
    rows: int
    packed: WeightSource
    scale: WeightSource
    zero: WeightSource | None = None
    tensor_scale: WeightSource | None = None
    order: WeightSource | None = None
    factor: WeightSource | None = None
    activation: ActivationRule | None = None
    input_scale: WeightSource | None = None

    def parts(self) -> dict[str, WeightSource]:
        """The tensors that are there, by the suffix their weights have in a module."""
        names = ("packed", "scale", "zero", "tensor_scale", "order", "factor", "input_scale")
        found = {name: getattr(self, name) for name in names}
        return {name: source for name, source in found.items() if source is not None}

    def dequantized(self) -> Tensor:
        """What a plain linear would multiply by, float32 [O, K]: order and factor are undone."""
        from optcc.ir.ops.quantized import dequantize

        zero = None if self.zero is None else self.zero.stored()
        whole = None if self.tensor_scale is None else self.tensor_scale.stored()
        packed, scale = self.packed.stored(), self.scale.stored()
        values = dequantize(packed, scale, zero, whole, self.format, self.group, self.rows, torch.float32)
        if self.order is not None:
            values = torch.empty_like(values).index_copy_(1, self.order.stored(), values)
        return values if self.factor is None else values * self.factor.stored()


@dataclass(frozen=True)
class WeightSource:
    """Where one weight lies: in a file (then it is only ever mapped), or in memory (small constants).

    Attributes:
        dtype: as stored; float32 for a packed weight.
        shape: as stored and as used.
        cast_to: what the graph expects, when that differs from `dtype`.
        path, offset, nbytes: the bytes in a file.
        value: the tensor, when it is not in a file.
        packed: the quantized form, when that is what is stored; then there is neither a file nor a value.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    cast_to: torch.dtype | None = None
    path: Path | None = None
    offset: int = 0
    nbytes: int = 0
    value: Tensor | None = field(default=None, repr=False)
    packed: PackedSource | None = None

    def stored(self) -> Tensor:
        """The tensor as stored; from a file it is a private mapping, which costs no anonymous memory until
        written. A packed weight is dequantized."""
        if self.value is not None:
            return self.value
        if self.packed is not None:
            return self.packed.dequantized()
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
