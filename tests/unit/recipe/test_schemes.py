"""Quantization schemes: the built-in ones, and the lines of what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from optcc.errors import OptccError, RecipeField, RecipeSyntax, UnknownScheme
from optcc.recipe import ActivationFormat, Scheme, WeightFormat, list_schemes, load_scheme

GOOD = """\
version: 1
description: mine
weight: {bits: 8, group: 32, symmetric: true, scale_dtype: float16}
activation: {bits: 8, group: 0}
embedding: false
limits: {kl: 1e-2}
"""


def test_the_scheme_of_the_int8_preset() -> None:
    assert load_scheme("int8-g64-a8") == Scheme(
        name="int8-g64-a8",
        description="int8 weights and activations, one scale for 64 channels",
        weight=WeightFormat(bits=8, group=64, symmetric=True, scale_dtype="float32"),
        activation=ActivationFormat(bits=8, group=64),
        embedding=True,
        limits={"kl": 0.012, "top1": 0.93, "cosine": 0.995},
    )


def test_built_in_names() -> None:
    assert list_schemes() == ["int8-channel", "int8-g32-a8", "int8-g64", "int8-g64-a8"]


@pytest.mark.parametrize("name", list_schemes())
def test_name_says_what_it_is(name: str) -> None:
    scheme = load_scheme(name)
    group = f"g{scheme.weight.group}" if scheme.weight.group else "channel"
    suffix = f"-a{scheme.activation.bits}" if scheme.activation else ""
    assert name == f"int{scheme.weight.bits}-{group}{suffix}"
    assert {"kl", "top1", "cosine"} <= set(scheme.limits)
    assert scheme.to_json()["weight"]["bits"] == 8


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD)
    scheme = load_scheme("./mine.yaml", tmp_path)
    assert (scheme.name, scheme.weight.scale_dtype, scheme.limits) == ("mine", "float16", {"kl": 0.01})
    assert scheme.activation == ActivationFormat(8, 0)


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
        ("bits: 8, group: 32", "bits: 7, group: 32", RecipeField, 3, "weight.bits: expected one of 8"),
        ("symmetric: true, ", "", RecipeField, 1, "weight.symmetric: missing"),
        ("bits: 8, group: 0", "bits: 8", RecipeField, 4, "activation.group: missing"),
        ("float16", "float61", RecipeField, 3, "weight.scale_dtype"),
        ("embedding: false", "embeding: false", RecipeField, 5, "embeding: unknown key"),
        ("embedding: false\n", "", RecipeField, 1, "embedding: missing"),
        ("kl: 1e-2", "kk: 1", RecipeField, 6, "limits.kk: unknown key"),
        ("version: 1", "version: 3", RecipeField, 1, "version: expected 1"),
        ("limits: {kl", "limits: kl", RecipeSyntax, 6, "not valid YAML"),
        ("activation: {bits: 8, group: 0}", "activation: int8", RecipeField, 4, "expected a mapping"),
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
