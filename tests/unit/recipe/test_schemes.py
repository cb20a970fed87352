"""Quantization schemes: the built-in ones, and the lines of what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from optcc.errors import OptccError, RecipeField, RecipeSyntax, UnknownScheme
from optcc.ir.formats import FORMATS, SCALES
from optcc.recipe import ActivationFormat, Scheme, WeightFormat, list_schemes, load_scheme
from optcc.recipe.schemes import ACTIVATION_TYPES, SCALE_BYTES, TWO_LEVEL, WEIGHT_TYPES

GOOD = """\
version: 1
description: mine
weight: {type: int8, group: 32, symmetric: true, scale: float16}
activation: {type: int8, group: 0}
embedding: false
limits: {kl: 1e-2}
"""


def test_the_scheme_of_the_int8_preset() -> None:
    assert load_scheme("int8-g64-a8") == Scheme(
        name="int8-g64-a8",
        description="int8 weights and activations, one scale for 64 channels",
        weight=WeightFormat("int8", group=64, symmetric=True, scale="float32", rows=1),
        activation=ActivationFormat("int8", group=64),
        embedding=True,
        limits={"kl": 0.012, "top1": 0.91, "cosine": 0.995},
    )


def test_names_of_formats_are_the_compilers() -> None:
    """The recipe's lists are written out, so that reading a recipe needs no torch."""
    assert {name: f.bits for name, f in FORMATS.items()} == WEIGHT_TYPES
    assert set(ACTIVATION_TYPES) <= set(FORMATS)
    assert {name: s.dtype.itemsize for name, s in SCALES.items()} == SCALE_BYTES
    assert {name for name, s in SCALES.items() if s.two_level} == set(TWO_LEVEL)


@pytest.mark.parametrize("name", list_schemes())
def test_name_says_what_it_is(name: str) -> None:
    scheme = load_scheme(name)
    weight = scheme.weight
    assert {"kl", "top1", "cosine"} <= set(scheme.limits)
    assert scheme.to_json()["weight"]["type"] == weight.type
    if name.startswith("int"):
        group = f"g{weight.group}" if weight.group else "channel"
        asym, act = "" if weight.symmetric else "-asym", "-a8" if scheme.activation else ""
        act = "-static" if scheme.activation and scheme.activation.static else act
        half = "-half" if weight.scale == "float16" else ""
        assert name == f"{weight.type}-{group}{asym}{half}{act}"


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD)
    scheme = load_scheme("./mine.yaml", tmp_path)
    assert (scheme.name, scheme.weight.scale, scheme.limits) == ("mine", "float16", {"kl": 0.01})
    assert scheme.activation == ActivationFormat("int8", 0)


@pytest.mark.parametrize(
    ("old", "new", "kind", "line", "what"),
    [
        (
            "group: 32",
            "group: 24",
            RecipeField,
            3,
            "weight.group: expected 0 or a multiple of 16, found '24'",
        ),
        ("group: 32", "group: -16", RecipeField, 3, "weight.group"),
        ("group: 0", "group: 8", RecipeField, 4, "activation.group"),
        (
            "type: int8, group: 32",
            "type: int7, group: 32",
            RecipeField,
            3,
            "weight.type: expected one of int8",
        ),
        ("group: 32, ", "", RecipeField, 3, "weight.group: missing"),
        ("type: int8, group: 0", "type: int8", RecipeField, 4, "activation.group: missing"),
        ("float16", "float61", RecipeField, 3, "weight.scale"),
        ("float16}", "float16, rows: 3}", RecipeField, 3, "weight.rows: expected 0, 1 or a multiple of 16"),
        ("float16}", "float16, rows: 0}", RecipeField, 3, "weight.rows: one scale for the whole tensor"),
        (
            "int8, group: 32, symmetric: true",
            "e4m3, group: 32, symmetric: false",
            RecipeField,
            3,
            "zero points",
        ),
        ("group: 0}", "group: 16, static: true}", RecipeField, 4, "a static scale is one for the whole"),
        ("embedding", "kv: {type: int8}\nembedding", RecipeField, 5, "kv: unknown key"),
        ("embedding: false", "embeding: false", RecipeField, 5, "embeding: unknown key"),
        ("embedding: false\n", "", RecipeField, 1, "embedding: missing"),
        ("kl: 1e-2", "kk: 1", RecipeField, 6, "limits.kk: unknown key"),
        ("version: 1", "version: 3", RecipeField, 1, "version: expected 1"),
        ("limits: {kl", "limits: kl", RecipeSyntax, 6, "not valid YAML"),
        ("activation: {type: int8, group: 0}", "activation: int8", RecipeField, 4, "expected a mapping"),
    ],
)
def test_refused_with_its_line(
    tmp_path: Path, old: str, new: str, kind: type[OptccError], line: int, what: str
) -> None:
    assert old in GOOD
    (tmp_path / "bad.yaml").write_text(GOOD.replace(old, new))
    with pytest.raises(kind) as caught:
        load_scheme("bad.yaml", tmp_path)
    assert what in caught.value.what
    assert (caught.value.where or "").split(":")[:2] == ["bad.yaml", str(line)]


def test_unknown_scheme_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownScheme) as caught:
        load_scheme("int8-g64a8", tmp_path)
    assert "int8-g64-a8" in (caught.value.hint or "")
    (tmp_path / "e.yaml").write_text("")
    with pytest.raises(RecipeSyntax, match="empty"):
        load_scheme("e.yaml", tmp_path)
