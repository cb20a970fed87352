"""Named symbolic dimensions, and the fake-tensor world in which a module's types live.

A module owns one torch ShapeEnv and one FakeTensorMode. Its dims are created by name (`T`, `R`, …), so a shape prints
as `[1, T, 576]` whatever torch calls the symbol, and the text parses back to an equal shape.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import sympy
import torch
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

from optcc.errors import IRTextError

Dim = int | torch.SymInt

# Sample sizes for torch's shape reasoning: distinct primes, so that no two dims are ever equal by accident.
_HINTS = (13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97)


class Dims:
    """The named dims of one module and the fake mode its values are typed in."""

    def __init__(self) -> None:
        self.env = ShapeEnv()
        self.mode = FakeTensorMode(shape_env=self.env, allow_non_fake_inputs=False)
        self._named: dict[str, torch.SymInt] = {}
        self._shown: dict[tuple[sympy.Expr, int], str] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all dims, sorted."""
        return tuple(sorted(self._named))

    def named(self, name: str) -> torch.SymInt:
        """The dim called `name`; made on first use."""
        if name not in self._named:
            hint = _HINTS[len(self._named) % len(_HINTS)] + 100 * (len(self._named) // len(_HINTS))
            source = ConstantSource(f"dim_{name}")
            symbol = self.env.create_symbol(hint, source, dynamic_dim=DimDynamic.DYNAMIC, constraint_dim=None)
            value = self.env.create_symintnode(symbol, hint=hint, source=source)
            assert isinstance(value, torch.SymInt)
            self._named[name] = value
        return self._named[name]

    def show(self, dim: Dim) -> str:
        """Text of a dim: an integer, a name, or an expression such as `R + 1`."""
        if isinstance(dim, int):
            return str(dim)
        key = (dim.node.expr, len(self._named))
        if key not in self._shown:
            self._shown[key] = self._show(dim)
        return self._shown[key]

    def _show(self, dim: torch.SymInt) -> str:
        names = {value.node.expr: sympy.Symbol(name) for name, value in self._named.items()}
        expression = dim.node.expr.xreplace(names)
        # torch's own FloorDiv and Mod print as calls; they parse back because they are looked up by name.
        return str(sympy.expand(expression)) if expression.is_polynomial() else str(expression)

    def value(self, dim: Dim, sizes: Mapping[str, int]) -> int:
        """A dim as a number, given the sizes of the named ones it is made of."""
        if isinstance(dim, int):
            return dim
        known = {
            self._named[name].node.expr: sympy.Integer(size)
            for name, size in sizes.items()
            if name in self._named
        }
        return int(dim.node.expr.xreplace(known))

    def parse(self, text: str) -> Dim:
        """The dim that `show` printed as `text`.

        Raises:
            IRTextError: the text isn't an expression of integers and names.
        """
        text = text.strip()
        if re.fullmatch(r"-?\d+", text):
            return int(text)
        if re.fullmatch(r"[A-Za-z_]\w*", text):
            return self.named(text)
        if not re.fullmatch(r"[\w\s+*()/,-]+", text):
            raise IRTextError(f"`{text}` is not a dimension")
        names = {
            name: self.named(name) for name in re.findall(r"[A-Za-z_]\w*", text) if name not in _FUNCTIONS
        }
        try:
            value = eval(text, {"__builtins__": {}}, {**_FUNCTIONS, **names})  # noqa: S307 - charset checked above
        except Exception as error:
            raise IRTextError(f"`{text}` is not a dimension: {error}") from error
        if not isinstance(value, int | torch.SymInt):
            raise IRTextError(f"`{text}` is not a dimension")
        return value

    def tensor(self, dtype: torch.dtype, shape: Sequence[Dim]) -> torch.Tensor:
        """A fake tensor of this type."""
        with self.mode:
            return torch.empty(tuple(shape), dtype=dtype)


def _floor_div(a: Dim, b: Dim) -> Dim:
    return a // b


def _mod(a: Dim, b: Dim) -> Dim:
    remainder: Dim = a % b  # type: ignore[operator]
    return remainder


_FUNCTIONS = {
    "FloorDiv": _floor_div,
    "Mod": _mod,
    "PythonMod": _mod,
    "Max": torch.sym_max,
    "Min": torch.sym_min,
}
