"""Which texts are expressions of sizes, as torch writes them into a `.pt2` file; sympy would run anything else.

torch writes sympy's `srepr`: `Add(Mul(Integer(2), Symbol('s31', positive=True, integer=True)), Integer(1))`.
"""

from __future__ import annotations

import ast
import re

_SYMBOL = re.compile(r"[suz]+\d+\Z")
_NUMBERS = "Symbol Integer Rational Float Add Mul Pow Max Min Identity"
_DIVISIONS = "FloorDiv Mod PythonMod CeilDiv CleanDiv ModularIndexing IntTrueDiv FloatTrueDiv PowByNatural"
_CASTS = "FloorToInt CeilToInt TruncToInt TruncToFloat RoundToInt ToFloat"
_TRUTHS = """Equality Unequality StrictLessThan LessThan StrictGreaterThan GreaterThan Eq Ne Lt Le Gt Ge And Or Not
Where BooleanTrue BooleanFalse"""
_FUNCTIONS = frozenset(" ".join((_NUMBERS, _DIVISIONS, _CASTS, _TRUTHS)).split())
_POWERS = ("Pow", "PowByNatural")
_LONGEST = 4096
_LARGEST_POWER = 16


def is_size(text: str) -> bool:
    """Whether a text is made of numbers, symbols and the functions of sizes, and nothing else."""
    if len(text) > _LONGEST:
        return False
    try:
        return _allowed(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _allowed(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | bool)
    if isinstance(node, ast.Name):
        return bool(_SYMBOL.match(node.id))
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and _allowed(node.operand)
    if isinstance(node, ast.BinOp):
        plain = isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.FloorDiv)
        return plain and _allowed(node.left) and _allowed(node.right)
    return isinstance(node, ast.Call) and _allowed_call(node)


def _allowed_call(node: ast.Call) -> bool:
    if not isinstance(node.func, ast.Name) or node.func.id not in _FUNCTIONS:
        return False
    flags = (
        k.arg is not None and isinstance(k.value, ast.Constant) and type(k.value.value) in (bool, int)
        for k in node.keywords
    )
    if not all(flags):
        return False
    if node.func.id == "Symbol":
        names = [a.value for a in node.args if isinstance(a, ast.Constant)]
        return (
            len(node.args) == len(names) == 1 and isinstance(names[0], str) and bool(_SYMBOL.match(names[0]))
        )
    if node.func.id in _POWERS and not _is_small(node.args[-1:]):
        return False
    return all(_allowed(argument) for argument in node.args)


def _is_small(exponent: list[ast.expr]) -> bool:
    """Whether a power is one that can be computed."""
    number = exponent[0] if exponent else None
    if isinstance(number, ast.Call) and len(number.args) == 1:
        number = number.args[0]
    if isinstance(number, ast.UnaryOp):
        number = number.operand
    return (
        isinstance(number, ast.Constant)
        and isinstance(number.value, int)
        and abs(number.value) <= _LARGEST_POWER
    )
