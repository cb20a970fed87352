"""Rotate the residual stream, so that no channel stands out and groups of weights have fewer outliers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from optcc.errors import BadOption, PreconditionFailed
from optcc.ir.builder import Builder
from optcc.ir.module import Module, source_of
from optcc.pm.context import Context
from optcc.pm.contract import Contract, tolerance
from optcc.pm.passes import Pass
from optcc.quant.orthogonal import KINDS, draw_rotation
from optcc.quant.residual import LAYER_NORM, Reader, Residual, find_residual

_RMS_NORM, _LINEAR = torch.ops.optcc.rms_norm.default, torch.ops.aten.linear.default
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class Rotate(Pass):
    """The residual stream x becomes `x Q` with a random orthogonal Q; what the model computes stays the same.

    Norms lose their weights g and biases b to the linears that read them. Readers become `W diag(g) Q` with the bias
    `c + W b`; writers `Qᵀ W` with the bias `c Q`; an embedding's rows E become `E Q`. A head tied to the embedding
    stays tied: its input goes through one D x D linear, `logits = n (Qᵀ diag(g) Q) (E Q)ᵀ`. Where norms take the mean
    away (LayerNorm), writers are made free of it first, `P = I - 11ᵀ/D`, and the norm is a root-mean-square norm; an
    embedding that is tied then stays whole, and one D x D linear after it takes its mean away.

    Exact up to rounding. Q is a Hadamard matrix with random signs where D allows (`optcc.quant.orthogonal`). Sources:
    Ashkboos et al., "SliceGPT" and "QuaRot", 2024; Liu et al., "SpinQuant" (there: R1), 2024.

    Before: canonical, weights not packed yet. After: canonical; norms of the residual stream have weights of one, and
    the module's `rotation` says which Q; a module that has it is left alone.

    Options:
        seed: of Q.
        kind: `auto`, `hadamard`, or `random` for a uniformly random matrix; `auto` is Hadamard where D allows.

    Raises:
        PreconditionFailed: something else reads or writes the residual stream, a norm after a branch for example
            (Gemma 2 and 3, OLMo 2); says what and where.
        BadOption: no such kind, or no Hadamard matrix of order D.
    """

    contract: ClassVar[Contract] = tolerance(5e-3)

    seed: int = 0
    kind: str = "auto"

    def run(self, module: Module, ctx: Context) -> bool:
        """Rotate one weight after another; only one is in memory at a time."""
        if self.kind not in KINDS:
            raise BadOption(f"kind: there is no kind {self.kind!r}", hint=f"there are {', '.join(KINDS)}")
        if "rotation" in module.attrs:
            ctx.note("already rotated")
            return False
        stream = _require(module)
        try:
            rotation = draw_rotation(stream.width, self.seed, self.kind)
        except ValueError as error:
            raise BadOption(f"kind: {error}", hint="`auto` takes a random orthogonal matrix then") from error
        _Rotator(module, stream, rotation.matrix).run()
        module.attrs["rotation"] = {"seed": self.seed, "kind": rotation.kind, "width": stream.width}
        ctx.note(
            f"{rotation.kind} rotation of {stream.width} channels: {len(stream.readers)} readers, "
            f"{len(stream.writers) + len(stream.tables) + len(stream.constants)} writers"
        )
        return True


def _require(module: Module) -> Residual:
    """The stream, if it can be rotated."""
    stream = find_residual(module)
    if stream is None or not stream.norms:
        raise PreconditionFailed(
            "quantize.rotate: the model has no residual stream that starts at a look-up of token ids",
            hint="leave quantize.rotate out for this model",
        )
    if stream.refused:
        first = next(iter(stream.refused.values()))[0]
        raise PreconditionFailed(
            "quantize.rotate: the residual stream can't be rotated: "
            + "; ".join(f"{_names(nodes)} {why}" for why, nodes in stream.refused.items()),
            where=source_of(first),
            hint="leave quantize.rotate out for this model",
        )
    return stream


def _names(nodes: tuple[fx.Node, ...]) -> str:
    first = nodes[0]
    name = f"@{first.target}" if first.op == "get_attr" else f"%{first.name}"
    return name + (f" (and {len(nodes) - 1} like it)" if len(nodes) > 1 else "")


@dataclass(frozen=True)
class _Rotator:
    """Rotates a stream that can be rotated.

    Attributes:
        module: changed in place.
        stream: of the module.
        matrix: Q, float64 [D, D].
    """

    module: Module
    stream: Residual
    matrix: Tensor

    def run(self) -> None:
        tied = {table.args[0] for table in self.stream.tables}
        tied &= {reader.linear.args[1] for reader in self.stream.readers}
        done: set[str] = set()
        for reader in self.stream.readers:
            if reader.linear.args[1] in tied:
                self._factor_head(reader)
            elif _claim(done, reader.linear.args[1]):
                self._read(reader, done)
        write = self._without_mean(self.matrix)
        for node in (*self.stream.writers, *self.stream.constants):
            self._write(node, write, done)
        for table in self.stream.tables:
            if _claim(done, table.args[0]):
                self._multiply(table.args[0], self.matrix if table.args[0] in tied else write)
            if table.args[0] in tied and self.stream.centered:
                self._center(table)
        self._clear_norms()
        self.module.tidy()

    def _without_mean(self, rows: Tensor) -> Tensor:
        """`P rows` for LayerNorm models, else the rows."""
        return rows - rows.mean(0) if self.stream.centered else rows

    def _read(self, reader: Reader, done: set[str]) -> None:
        """`W diag(g) Q`, and `c + W b`."""
        gain, shift = self._affine(reader.norm)
        name = _name(reader.linear.args[1])
        if shift is not None:
            moved = self.module.weights[name].double() @ shift
            bias = reader.linear.args[2] if len(reader.linear.args) > 2 else None
            if isinstance(bias, fx.Node):
                if _claim(done, bias):
                    self._put(_name(bias), self.module.weights[_name(bias)].double() + moved)
            else:
                added = Builder(self.module, reader.linear).new_weight(
                    f"{name.removesuffix('.weight')}.bias", moved.to(self._dtype(name))
                )
                reader.linear.args = (*reader.linear.args[:2], added)
        self._multiply(reader.linear.args[1], gain[:, None] * self.matrix)

    def _write(self, node: fx.Node, matrix: Tensor, done: set[str]) -> None:
        """`Qᵀ W` and `c Q` for a linear; `c Q` for a constant."""
        if node.op == "get_attr":
            self._multiply(node, matrix)
            return
        name = _name(node.args[1])
        # A linear that reads the stream as well was claimed then; its rows are still to be rotated.
        if f"{name}:rows" not in done:
            done.add(f"{name}:rows")
            self._put(name, matrix.T @ self.module.weights[name].double())
        bias = node.args[2] if len(node.args) > 2 else None
        if isinstance(bias, fx.Node) and f"{_name(bias)}:rows" not in done:
            done.add(f"{_name(bias)}:rows")
            self._multiply(bias, matrix)

    def _factor_head(self, reader: Reader) -> None:
        """`n W_tiedᵀ` becomes `(n M + b Q) W_tiedᵀ` with `M = Qᵀ diag(g) Q`, before W is rotated as an embedding."""
        linear = reader.linear
        gain, shift = self._affine(reader.norm)
        name, dtype = _name(linear.args[1]), self._dtype(_name(linear.args[1]))
        build = Builder(self.module, linear)
        factor = self.matrix.T @ (gain[:, None] * self.matrix)
        operands = [linear.args[0], build.new_weight(f"{name}.head_factor", factor.T.to(dtype))]
        if shift is not None:
            operands.append(build.new_weight(f"{name}.head_bias", (shift @ self.matrix).to(dtype)))
        linear.replace_input_with(linear.all_input_nodes[0], build.call(_LINEAR, *operands))

    def _center(self, table: fx.Node) -> None:
        """Take the mean away from the rows of a table that stays whole: `x' = (e Q) (Qᵀ P Q)`."""
        following = table.next
        users = list(table.users)
        name = _name(table.args[0])
        build = Builder(self.module, following, source=table)
        matrix = self.matrix.T @ self._without_mean(self.matrix)
        weight = build.new_weight(f"{name}.center", matrix.T.to(self._dtype(name)))
        centered = build.call(_LINEAR, table, weight)
        for user in users:
            user.replace_input_with(table, centered)

    def _clear_norms(self) -> None:
        """Norms without weight or bias: all ones, as `canonicalize.norm` writes it; equal ones become one."""
        order = {node: i for i, node in enumerate(self.module.graph.nodes)}
        made: dict[tuple[object, object], fx.Node] = {}
        for norm in sorted(self.stream.norms, key=order.__getitem__):
            eps = norm.args[2] if norm.target is _RMS_NORM else (norm.args[4] if len(norm.args) > 4 else 1e-5)
            key = (norm.args[0], eps)
            if key not in made:
                build = Builder(self.module, norm)
                made[key] = build.call(
                    _RMS_NORM, norm.args[0], self._ones(build, norm.meta["val"].dtype), eps
                )
            norm.replace_all_uses_with(made[key])

    def _ones(self, build: Builder, dtype: torch.dtype) -> fx.Node:
        name = f"ones.{self.stream.width}.{str(dtype).removeprefix('torch.')}"
        if name in self.module.weights:
            return build.weight(name)
        return build.new_weight(name, torch.ones(self.stream.width, dtype=dtype))

    def _affine(self, norm: fx.Node | None) -> tuple[Tensor, Tensor | None]:
        """A norm's weight, ones where it has none, and its bias; float64 [D]."""
        places: list[object] = []
        if norm is not None:
            places = [*norm.args[2:4]] if norm.target is LAYER_NORM else [norm.args[1]]
        found = [self.module.weights[_name(p)].double() if isinstance(p, fx.Node) else None for p in places]
        gain, shift = [*found, None, None][:2]
        return (torch.ones(self.stream.width, dtype=torch.float64) if gain is None else gain), shift

    def _multiply(self, weight: object, matrix: Tensor) -> None:
        """Weight [..., D] times a matrix [D, D], some rows at a time."""
        old = self.module.weights[_name(weight)]
        new = torch.empty_like(old)
        for first in range(0, max(len(old), 1), _ROWS_AT_ONCE):
            rows = slice(first, first + _ROWS_AT_ONCE)
            if old.dim() == 1:
                new = (old.double() @ matrix).to(old.dtype)
                break
            new[rows] = (old[rows].double() @ matrix).to(old.dtype)
        self.module.weights.put(_name(weight), new)

    def _put(self, name: str, value: Tensor) -> None:
        self.module.weights.put(name, value.to(self._dtype(name)))

    def _dtype(self, name: str) -> torch.dtype:
        return self.module.weights.spec(name)[0]


def _name(weight: object) -> str:
    assert isinstance(weight, fx.Node)
    return str(weight.target)


def _claim(done: set[str], weight: object) -> bool:
    """Whether a weight is still as it was; marks it done."""
    name = _name(weight)
    if name in done:
        return False
    done.add(name)
    return True
