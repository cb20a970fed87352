"""A module whose every operator reads inputs: then one run of it shows what each operator does by itself."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, fx

from optcc.ir.interpret import varying
from optcc.ir.module import Module

SUFFIX = "__given"
"""Behind a node's name: the input that stands for its value."""


def cut(module: Module, types: Collection[torch.dtype]) -> tuple[Module, list[str]]:
    """Replace every use of an operator's result by a new input, and make every result an output of the graph.

    Sizes, and tuples on the way to their parts, stay as they are; so does what is made of weights alone.

    Args:
        module: not changed.
        types: of values that may become inputs and outputs.

    Returns:
        The module, and the names of the nodes whose values are its outputs; an input is called as its node with
        `SUFFIX`. A node whose value nobody reads but the result is an output only.
    """
    new = module.clone()
    graph = new.graph
    moving = varying(graph.nodes)
    output = graph.output_node()
    shown: list[fx.Node] = []
    last = new.inputs()[-1]
    for node in list(graph.nodes):
        value = node.meta.get("val")
        if node.op != "call_function" or node not in moving or not isinstance(value, Tensor):
            continue
        if value.dtype not in types:
            continue
        shown.append(node)
        readers = [user for user in node.users if user is not output]
        if not readers:
            continue
        with graph.inserting_after(last):
            given = graph.placeholder(f"{node.name}{SUFFIX}")
        given.name = f"{node.name}{SUFFIX}"
        given.meta["val"] = value
        last = given
        node.replace_all_uses_with(given, delete_user_cb=lambda user: user is not output)
    output.args = (tuple(shown),)
    output.meta["names"] = [node.name for node in shown]
    return new, [node.name for node in shown]
