"""Read a module back from its text.

Types of results are not trusted: they are inferred anew from the operands and compared with the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from optcc.errors import IRTextError
from optcc.ir.infer import DIM_FUNCTIONS
from optcc.ir.module import Module
from optcc.ir.text import VERSION
from optcc.ir.types import DTYPES, parse_spec, parse_type, show_type
from optcc.ir.weights import WeightStore

_NODE = re.compile(r"%(\w+) : (.+?) = (.+?)(?:  // (.*))?$")
_CALL = re.compile(r"([\w.:]+)\((.*)\)$")
_TOKEN = re.compile(
    r"""\s*(?:
      %(?P<value>\w+) | @(?P<weight>[\w.\-/]+|"(?:[^"\\]|\\.)*") | (?P<string>"(?:[^"\\]|\\.)*") | <(?P<enum>[^>]*)>
      | (?P<number>-?(?:\d+\.?\d*(?:e[+-]?\d+)?|inf)\b) | (?P<word>\w+) | (?P<mark>[\[\],=])
    )""",
    re.X,
)
_ENUMS: dict[str, object] = {
    "cpu": torch.device("cpu"),
    "torch.strided": torch.strided,
    "torch.contiguous_format": torch.contiguous_format,
    "torch.preserve_format": torch.preserve_format,
}
_WORDS: dict[str, object] = {"None": None, "True": True, "False": False, "nan": float("nan"), **DTYPES}


def parse_module(text: str, weights: WeightStore | None = None) -> Module:
    """The module that `module_text` printed.

    Args:
        text: the module's text.
        weights: the tensors it refers to. Without them, weights exist by name and type only, which is enough for
            every pass that reads no weight.

    Raises:
        IRTextError: with the line that can't be read.
    """
    return _Reader(text, weights).read()


class _Reader:
    def __init__(self, text: str, weights: WeightStore | None) -> None:
        self.lines = text.splitlines()
        self.at = 0
        self.module = Module(weights if weights is not None else WeightStore())
        self.has_weights = weights is not None
        self.values: dict[str, fx.Node] = {}

    def fail(self, why: str) -> IRTextError:
        return IRTextError(why, where=f"line {self.at}")

    def next(self) -> str:
        if self.at >= len(self.lines):
            raise self.fail("the text ends too early")
        self.at += 1
        return self.lines[self.at - 1]

    def read(self) -> Module:
        if self.next().strip() != f"optcc.ir {VERSION}":
            raise self.fail(f"the first line must be `optcc.ir {VERSION}`")
        self.weight_table()
        while self.at < len(self.lines):
            line = self.next().strip()
            if line.startswith("attrs "):
                self.module.attrs = json.loads(line[6:])
            elif match := re.fullmatch(r"graph (\w+) \{", line):
                self.graph(match[1])
            elif line == "weights {":
                while self.next().strip() != "}":
                    pass
            elif line:
                raise self.fail(f"can't read `{line}`")
        return self.module

    def weight_table(self) -> None:
        """Weights come last in the text but must be known first."""
        start = next((i for i, line in enumerate(self.lines) if line.strip() == "weights {"), None)
        if start is None or self.has_weights:
            return
        resume, self.at = self.at, start + 1
        while (line := self.next().strip()) != "}":
            match = re.fullmatch(r"@(\S+|\".*\") : (.+)", line)
            if not match:
                raise self.fail(f"can't read the weight `{line}`")
            dtype, shape = parse_spec(match[2], self.module.dims)
            self.module.weights.declare(_unquote(match[1]), dtype, tuple(int(n) for n in shape))
        self.at = resume

    def graph(self, name: str) -> None:
        graph = fx.Graph()
        self.module.graphs[name] = graph
        self.values = {}
        while (line := self.next().strip()) != "}":
            if line.startswith("return"):
                self.results(graph, line[6:])
            elif match := _NODE.fullmatch(line):
                self.node(graph, *match.groups())
            else:
                raise self.fail(f"can't read `{line}`")

    def node(self, graph: fx.Graph, name: str, type_text: str, call: str, source: str | None) -> None:
        if call == "input":
            node = graph.placeholder(name)
            node.name = name  # fx would rename `input`
            node.meta["val"] = parse_type(type_text, self.module.dims)
        else:
            match = _CALL.fullmatch(call)
            if not match:
                raise self.fail(f"can't read the call `{call}`")
            args, kwargs = self.arguments(graph, match[2])
            node = graph.create_node("call_function", self.target(match[1]), args, kwargs, name=name)
            self.module.infer(node)
            found = show_type(node.meta["val"], self.module.dims)
            if found != type_text:
                raise self.fail(f"%{name} is {found} by its operands, the text says {type_text}")
        if node.name != name:
            raise self.fail(f"the name %{name} is used twice or reserved")
        if source:
            node.meta["source"] = source
        self.values[name] = node

    def results(self, graph: fx.Graph, text: str) -> None:
        pairs = re.findall(r"(\w+) = %(\w+)", text)
        missing = [value for _, value in pairs if value not in self.values]
        if missing:
            raise self.fail(f"%{missing[0]} is not defined")
        node = graph.output(tuple(self.values[value] for _, value in pairs))
        node.meta["names"] = tuple(n for n, _ in pairs)
        node.meta["val"] = None

    def target(self, name: str) -> Callable[..., Any]:
        if name in DIM_FUNCTIONS:
            return DIM_FUNCTIONS[name]
        found: Any = torch.ops
        try:
            for part in name.split("."):
                found = getattr(found, part)
        except AttributeError as error:
            raise self.fail(f"there is no operator `{name}`") from error
        if not isinstance(found, torch._ops.OpOverload):
            raise self.fail(f"`{name}` is no operator")
        return found

    def arguments(self, graph: fx.Graph, text: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        tokens = self.tokens(text)
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        while tokens:
            if len(tokens) > 1 and tokens[1] == ("mark", "="):
                key = tokens.pop(0)[1]
                tokens.pop(0)
                kwargs[key] = self.value(graph, tokens)
            else:
                args.append(self.value(graph, tokens))
            if tokens and tokens.pop(0) != ("mark", ","):
                raise self.fail("a comma is missing between operands")
        return tuple(args), kwargs

    def value(self, graph: fx.Graph, tokens: list[tuple[str, str]]) -> Any:
        if not tokens:
            raise self.fail("an operand is missing")
        kind, text = tokens.pop(0)
        if kind == "value":
            if text not in self.values:
                raise self.fail(f"%{text} is not defined")
            return self.values[text]
        if kind == "weight":
            return self.weight(graph, _unquote(text))
        if kind == "string":
            return json.loads(text)
        if kind == "number":
            return int(text) if re.fullmatch(r"-?\d+", text) else float(text)
        if kind == "word" and text in _WORDS:
            return _WORDS[text]
        if kind == "enum" and text in _ENUMS:
            return _ENUMS[text]
        if (kind, text) == ("mark", "["):
            return self.sequence(graph, tokens)
        raise self.fail(f"`{text}` is no operand")

    def sequence(self, graph: fx.Graph, tokens: list[tuple[str, str]]) -> list[Any]:
        items: list[Any] = []
        while tokens and tokens[0] != ("mark", "]"):
            items.append(self.value(graph, tokens))
            if tokens and tokens[0] == ("mark", ","):
                tokens.pop(0)
        if not tokens:
            raise self.fail("a list is not closed")
        tokens.pop(0)
        return items

    def weight(self, graph: fx.Graph, name: str) -> fx.Node:
        for found in graph.find_nodes(op="get_attr", target=name):
            assert isinstance(found, fx.Node)
            return found
        node = graph.create_node("get_attr", name, name="w_" + re.sub(r"\W", "_", name))
        self.module.infer(node)
        return node

    def tokens(self, text: str) -> list[tuple[str, str]]:
        found, at = [], 0
        while at < len(text.rstrip()):
            match = _TOKEN.match(text, at)
            if not match:
                raise self.fail(f"can't read `{text[at:].strip()}`")
            kind = match.lastgroup
            assert kind is not None
            found.append((kind, match[kind]))
            at = match.end()
        return found


def _unquote(text: str) -> str:
    return str(json.loads(text)) if text.startswith('"') else text
