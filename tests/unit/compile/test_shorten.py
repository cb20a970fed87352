"""The first layers cut out of a decoder are the decoder that was captured with so many."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from optcc.backends.registry import load_backend
from optcc.compile.plan import make_plan
from optcc.compile.shorten import first_layers
from optcc.compile.survey import captured, load_options
from optcc.frontend import resolve_shape
from optcc.ir.module import Module
from optcc.ir.text import module_text
from optcc.pm.context import Context
from optcc.pm.run import run_pass
from optcc.recipe import load_recipe
from tests.zoo import NAMES, config_of


def canonical(folder: Path, layers: int) -> Module:
    """A model without weights as preflight sees it, with its first layers."""
    recipe, backend = load_recipe("cpu-int8"), load_backend("onnxruntime")
    plan = make_plan(recipe, backend)
    load = load_options(recipe)
    module = captured(replace(resolve_shape(str(folder), load), layers=layers), load)
    ctx = Context(backend.name, base=recipe.base)
    for step in plan.pipeline.passes[: plan.preflight_at]:
        run_pass(module, step, ctx, [])
    return module


def plain(module: Module) -> str:
    """The module's text with nodes numbered in order, and without what the front end counted."""
    module.attrs["facts"] = {}
    names: dict[str, str] = {}
    return re.sub(r"%(\w+)", lambda m: names.setdefault(m[0], f"%{len(names)}"), module_text(module))


SOME = ("gemma3", "neox")
ALL = [pytest.param(n, marks=[] if n in SOME else [pytest.mark.prove]) for n in NAMES]


@pytest.mark.parametrize("name", ALL)
def test_cut_is_as_captured(name: str, tmp_path: Path) -> None:
    config = config_of(name).to_dict()
    (tmp_path / "config.json").write_text(json.dumps(config))
    layers = int(config.get("num_hidden_layers") or config["n_layer"])
    cut = first_layers(canonical(tmp_path, layers), layers - 1)
    wanted = canonical(tmp_path, layers - 1)
    assert cut is not None
    assert plain(cut) == plain(wanted)
    assert cut.weight_bytes() == wanted.weight_bytes()


def test_no_fewer_layers_than_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config_of("llama").to_dict()))
    module = canonical(tmp_path, 1)
    assert first_layers(module, 1) is None
    assert first_layers(module, 0) is None
