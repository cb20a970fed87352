"""Recipes: what is read, what is merged, and the exact line of everything that is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from optcc.accuracy import gates
from optcc.errors import BadOverride, ExtendsCycle, OptccError, RecipeField, RecipeNotFound, RecipeSyntax
from optcc.recipe import METRICS, STAGES, Recipe, dump_recipe, list_presets, load_recipe
from optcc.recipe.load import preset_folder
from tests.rights import modes_count

FULL = """\
version: 1
description: all of it
model: {dtype: bfloat16, max_context: 4096, trust_remote_code: true, pooling: mean, normalize: true}
target: {backend: reference, device: cuda, threads: 2}
passes:
  canonicalize: [canonicalize.dce, canonicalize.constants]
  quantize:
    - quantize.linear: {scheme: int8-g64-a8, skip: [lm_head, 3], ratio: 1e-3, on: yes, none: ~}
    - plugins/my.py:Mine
  serve:
    - serve.paged-kv:
        block-size: 16
check: {data: [prose, my.txt], tokens: 100, window: 16, limits: {kl: 1e-2, top1: 1}, enabled: false}
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_everything_is_read(tmp_path: Path) -> None:
    write(tmp_path, "full.yaml", FULL)
    recipe = load_recipe("full.yaml")
    assert recipe.name == "full"
    assert recipe.model.max_context == 4096
    assert recipe.target.backend == "reference"
    assert list(recipe.passes) == list(STAGES)
    quantize, mine = recipe.passes["quantize"]
    assert quantize.options == {
        "scheme": "int8-g64-a8",
        "skip": ("lm_head", 3),
        "ratio": 1e-3,
        "on": "yes",
        "none": None,
    }
    assert str(quantize.where) == "full.yaml:8"
    assert (mine.ref, mine.where.line, mine.where.base) == ("plugins/my.py:Mine", 9, tmp_path)
    assert recipe.passes["serve"][0].options == {"block-size": 16}
    assert recipe.passes["serve"][0].where.line == 11
    assert recipe.check.data == ("prose", "my.txt")
    assert recipe.check.limits == {"kl": 0.01, "top1": 1.0}
    assert not recipe.check.enabled


def test_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "r.yaml", "version: 1\n"))
    assert recipe.to_json() == {
        "version": 1,
        "name": "r",
        "description": "",
        "model": {
            "dtype": "float32",
            "max_context": None,
            "trust_remote_code": False,
            "pooling": None,
            "normalize": False,
        },
        "target": {"backend": "onnxruntime", "device": "cpu", "threads": 0},
        "passes": {stage: [] for stage in STAGES},
        "calibrate": {"data": ["prose", "code", "chat"], "tokens": 8192, "window": 512},
        "check": {
            "data": ["prose", "code", "chat"],
            "tokens": 8192,
            "window": 512,
            "classes": ["logits"],
            "limits": {},
            "enabled": True,
        },
    }


def test_dump_loads_to_the_same(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "full.yaml", FULL))
    again = load_recipe(write(tmp_path, "other.yaml", dump_recipe(recipe)))
    assert again.to_json() == recipe.to_json()
    assert again == recipe
    assert dump_recipe(again) == dump_recipe(recipe)


def test_awkward_text_survives_a_dump(tmp_path: Path) -> None:
    values = [
        "yes",
        "1e3",
        "null",
        "a: b",
        "# no",
        "é…",
        "",
        " x ",
        "1_000",
        "2024-01-01",
        "- a",
        "line\nbreak",
        "%",
    ]
    quoted = ", ".join('"' + v.replace("\n", "\\n") + '"' for v in values)
    recipe = load_recipe(
        write(tmp_path, "r.yaml", f"version: 1\npasses: {{fuse: [a.b: {{v: [{quoted}]}}]}}\n")
    )
    assert recipe.passes["fuse"][0].options["v"] == tuple(values)
    again = load_recipe(write(tmp_path, "s.yaml", dump_recipe(recipe)))
    assert again == recipe


# --- extends --------------------------------------------------------------------------------------


def test_null_takes_back_an_inherited_limit_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "version: 1\ncheck: {limits: {kl: 1, nll: 2, top1: 0.5}}\n")
    write(tmp_path, "mid.yaml", "version: 1\nextends: ./base.yaml\ncheck:\n  limits: {kl: null, nll: ~}\n")
    write(tmp_path, "leaf.yaml", "version: 1\nextends: ./mid.yaml\ncheck: {limits: {nll: 4, cosine: null}}\n")
    assert load_recipe("mid.yaml").check.limits == {"top1": 0.5}
    assert load_recipe("leaf.yaml").check.limits == {"top1": 0.5, "nll": 4.0}
    assert load_recipe("leaf.yaml", ["check.limits.top1=null"]).check.limits == {"nll": 4.0}
    write(
        tmp_path,
        "bad.yaml",
        "version: 1\nextends: ./base.yaml\ncheck:\n  limits:\n    kl: null\n    nll: no\n",
    )
    with pytest.raises(RecipeField) as caught:
        load_recipe("bad.yaml")
    assert (caught.value.where, caught.value.what.split(",")[0]) == (
        "bad.yaml:6",
        "check.limits.nll: expected a number >= 0",
    )


def test_mappings_merge_and_stage_lists_replace(tmp_path: Path) -> None:
    write(tmp_path, "presets/base.yaml", "version: 1\ndescription: mine\ntarget: {threads: 3, device: tpu}\n"
          "passes: {fuse: [a.a, b.b], quantize: [q.q]}\ncheck: {limits: {kl: 1, nll: 2}}\n")  # fmt: skip
    write(
        tmp_path,
        "mid/mid.yaml",
        "version: 1\nextends: base\npasses: {fuse: [c.c]}\ncheck: {limits: {kl: 3}}\n",
    )
    write(tmp_path, "leaf.yaml", "version: 1\nextends: mid/mid.yaml\ntarget: {device: cpu}\n")
    recipe = load_recipe("leaf.yaml", presets=tmp_path / "presets")
    assert recipe.extends == ("./mid/mid.yaml", "base") or recipe.extends == ("mid/mid.yaml", "base")
    assert (recipe.target.threads, recipe.target.device) == (3, "cpu")
    assert [e.ref for e in recipe.passes["fuse"]] == ["c.c"]
    assert [e.ref for e in recipe.passes["quantize"]] == ["q.q"]
    assert recipe.check.limits == {"kl": 3.0, "nll": 2.0}
    assert recipe.description == ""
    assert str(recipe.passes["fuse"][0].where) == f"{Path('mid/mid.yaml')}:3"
    assert str(recipe.passes["quantize"][0].where) == "preset base:4"


def test_paths_of_a_parent_are_seen_from_the_child(tmp_path: Path) -> None:
    write(tmp_path, "shared/base.yaml", "version: 1\npasses: {fuse: [./p.py:P: {scheme: ./s.yaml, n: x}]}\n"
          "check: {data: [t.txt, prose]}\n")  # fmt: skip
    write(tmp_path, "mine/leaf.yaml", "version: 1\nextends: ../shared/base.yaml\n")
    recipe = load_recipe("mine/leaf.yaml")
    (entry,) = recipe.passes["fuse"]
    assert entry.ref == "../shared/p.py:P"
    assert entry.where.base == tmp_path / "mine"
    assert entry.options == {"scheme": "../shared/s.yaml", "n": "x"}
    assert recipe.check.data == ("../shared/t.txt", "prose")
    write(tmp_path, "mine/dumped.yaml", dump_recipe(recipe))
    assert load_recipe("mine/dumped.yaml") == recipe


def test_no_absolute_path_in_json(tmp_path: Path) -> None:
    text = f"version: 1\npasses: {{fuse: ['{tmp_path}/p.py:P']}}\ncheck: {{data: ['{tmp_path}/t.txt']}}\n"
    recipe = load_recipe(write(tmp_path, "r.yaml", text))
    assert recipe.passes["fuse"][0].ref == "./p.py:P"
    assert str(tmp_path) not in str(recipe.to_json())


def test_same_recipe_in_another_place_is_the_same_json(tmp_path: Path) -> None:
    one = load_recipe(write(tmp_path, "a/full.yaml", FULL))
    two = load_recipe(write(tmp_path, "b/full.yaml", FULL))
    assert one.to_json() == two.to_json()


def test_cycle_names_the_chain_and_the_line(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "version: 1\nextends: b.yaml\n")
    write(tmp_path, "b.yaml", "version: 1\ndescription: x\nextends: ./a.yaml\n")
    with pytest.raises(ExtendsCycle, match=re.escape("a.yaml -> b.yaml -> a.yaml")) as caught:
        load_recipe("a.yaml")
    assert caught.value.where == "b.yaml:3"


def test_extends_itself(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "version: 1\nextends: a.yaml\n")
    with pytest.raises(ExtendsCycle):
        load_recipe("a.yaml")


def test_missing_parent(tmp_path: Path) -> None:
    write(tmp_path, "presets/cpu-int8.yaml", "version: 1\n")
    write(tmp_path, "a.yaml", "version: 1\n\nextends: cpu-itn8\n")
    with pytest.raises(RecipeNotFound) as caught:
        load_recipe("a.yaml", presets=tmp_path / "presets")
    assert caught.value.where == "a.yaml:3"
    assert caught.value.hint == "did you mean cpu-int8?"


# --- what is refused ------------------------------------------------------------------------------

REFUSED = [
    ("a: [1\n", RecipeSyntax, "2:1", "not valid YAML"),
    ("version: 1\nmodel: a: b\n", RecipeSyntax, "2:9", "not valid YAML"),
    ("version: 1\nmodel:\n\tdtype: x\n", RecipeSyntax, "3:1", "not valid YAML"),
    ("version: 1\nname: *x\n", RecipeSyntax, "2:7", "undefined alias"),
    ("version: 1\n---\nversion: 1\n", RecipeSyntax, "2:1", "another document"),
    ("", RecipeSyntax, "", "empty"),
    ("# only a comment\n", RecipeSyntax, "", "empty"),
    ("[" * 1000, RecipeSyntax, "", "nested too deeply"),
    ("- version\n", RecipeField, "1", "the recipe: expected a mapping, found a list"),
    ("description: x\n", RecipeField, "1", "version: missing"),
    ("version: 2\n", RecipeField, "1", "version: expected 1, found '2'"),
    ("version: true\n", RecipeField, "1", "version: expected 1"),
    ("version: '1'\n", RecipeField, "1", "version: expected 1"),
    ("version: 1\nmodle: {}\n", RecipeField, "2", "modle: unknown key"),
    ("version: 1\n\nmodel:\n  dtyp: float32\n", RecipeField, "4", "model.dtyp: unknown key"),
    ("version: 1\nmodel: {}\nversion: 1\n", RecipeField, "3", "version: given twice"),
    ("version: 1\ncheck:\n  tokens: 1\n  tokens: 2\n", RecipeField, "4", "check.tokens: given twice"),
    ("version: 1\nmodel: [x]\n", RecipeField, "2", "model: expected a mapping, found a list"),
    ("version: 1\nmodel:\n", RecipeField, "2", "model: expected a mapping, found nothing"),
    ("version: 1\nmodel:\n  dtype: float23\n", RecipeField, "3", "model.dtype: expected one of"),
    (
        "version: 1\nmodel: {max_context: 0}\n",
        RecipeField,
        "2",
        "model.max_context: expected a whole number >= 1",
    ),
    ("version: 1\nmodel: {normalize: yes}\n", RecipeField, "2", "expected true or false, found 'yes'"),
    ("version: 1\ntarget: {threads: -1}\n", RecipeField, "2", "target.threads: expected a whole number >= 0"),
    ("version: 1\ntarget: {threads: true}\n", RecipeField, "2", "target.threads"),
    ("version: 1\ntarget: {backend: 3}\n", RecipeField, "2", "target.backend: expected text, found '3'"),
    ("version: 1\npasses:\n  fuse:\n    -\n    - a.b\n", RecipeField, "4", "passes.fuse[0]: expected text"),
    ("version: 1\nname:\n\n\ncheck: {}\n", RecipeField, "2", "name: expected text, found nothing"),
    ("version: 1\nname:\n", RecipeField, "2", "name: expected text, found nothing"),
    ("version: 1\npasses:\n  fus: []\n", RecipeField, "3", "passes.fus: unknown key"),
    (
        "version: 1\npasses:\n  fuse: fuse.qkv\n",
        RecipeField,
        "3",
        "passes.fuse: expected a list, found 'fuse.qkv'",
    ),
    (
        "version: 1\npasses:\n  fuse:\n    - a.b\n    - [c]\n",
        RecipeField,
        "5",
        "passes.fuse[1]: expected a pass id",
    ),
    ("version: 1\npasses:\n  fuse:\n    - a.b:\n      x: 1\n", RecipeField, "4", "of 2 keys: a.b, x"),
    (
        "version: 1\npasses:\n  fuse:\n    - a.b:\n        x: {y: 1}\n",
        RecipeField,
        "5",
        "passes.fuse[0].a.b.x",
    ),
    (
        "version: 1\npasses:\n  fuse:\n    - a.b: {x: 1, x: 2}\n",
        RecipeField,
        "4",
        "passes.fuse[0].a.b.x: given twice",
    ),
    ("version: 1\npasses:\n  fuse:\n    - a.b: {x: [[1]]}\n", RecipeField, "4", "expected a plain value"),
    ("version: 1\npasses:\n  fuse:\n    - a.b: 3\n", RecipeField, "4", "expected a mapping, found '3'"),
    ("version: 1\npasses:\n  fuse:\n    - a.b: {x: .nan}\n", RecipeField, "4", "not a finite number"),
    (
        "version: 1\npasses:\n  fuse:\n    - a.b: {x: !!python/name:os.system ''}\n",
        RecipeField,
        "4",
        "tags are not",
    ),
    ("version: 1\ncheck:\n  data: prose\n", RecipeField, "3", "check.data: expected a list"),
    ("version: 1\ncheck:\n  data:\n    - prose\n    - 7\n", RecipeField, "5", "check.data[1]: expected text"),
    (
        "version: 1\ncheck:\n  limits:\n    kl: tiny\n",
        RecipeField,
        "4",
        "check.limits.kl: expected a number >= 0",
    ),
    ("version: 1\ncheck: {limits: {kl: -1}}\n", RecipeField, "2", "check.limits.kl: expected a number >= 0"),
    ("version: 1\ncheck: {limits: {k1: 1}}\n", RecipeField, "2", "check.limits.k1: unknown key"),
    ("version: 1\n? [a]\n: 1\n", RecipeField, "2", "a key must be plain text"),
    ("version: 1\nmodel: &m {<<: *m}\n", RecipeField, "2", "model.<<: unknown key"),
]


@pytest.mark.parametrize(("text", "kind", "line", "what"), REFUSED)
def test_refused_with_its_line(
    tmp_path: Path, text: str, kind: type[OptccError], line: str, what: str
) -> None:
    write(tmp_path, "bad.yaml", text)
    with pytest.raises(kind) as caught:
        load_recipe("bad.yaml")
    assert what in caught.value.what
    assert caught.value.where == ("bad.yaml:" + line if line else "bad.yaml")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("modle: {}", "did you mean model?"),
        ("model: {dtyp: x}", "did you mean dtype?"),
        ("tokens: 3", "did you mean calibrate.tokens or check.tokens?"),
        ("model: {dtype: float23}", "did you mean float32"),
        ("passes: {fuze: []}", "did you mean fuse or"),
        ("check: {limits: {top: 1}}", "did you mean top1?"),
        ("passes: {fuse: [{a.b: , x: 1}]}", "indent the options"),
    ],
)
def test_hint_is_the_nearest_key(tmp_path: Path, text: str, hint: str) -> None:
    write(tmp_path, "bad.yaml", f"version: 1\n{text}\n")
    with pytest.raises(RecipeField) as caught:
        load_recipe("bad.yaml")
    assert hint in (caught.value.hint or "")


def test_not_found_names_the_nearest_preset(tmp_path: Path) -> None:
    write(tmp_path, "presets/cpu-int8.yaml", "version: 1\n")
    with pytest.raises(RecipeNotFound) as caught:
        load_recipe("cpu-int9", presets=tmp_path / "presets")
    assert caught.value.hint == "did you mean cpu-int8?"
    with pytest.raises(RecipeNotFound):
        load_recipe(Path("cpu-int8"), presets=tmp_path / "presets")
    assert load_recipe("cpu-int8", presets=tmp_path / "presets").name == "cpu-int8"


def test_a_directory_and_bytes_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(RecipeNotFound, match="directory"):
        load_recipe(str(tmp_path))
    (tmp_path / "b.yaml").write_bytes(b"version: 1\nname: \xff\n")
    with pytest.raises(RecipeSyntax, match="UTF-8") as caught:
        load_recipe("b.yaml")
    assert caught.value.where == "b.yaml:2"


def test_unreadable(tmp_path: Path) -> None:
    write(tmp_path, "r.yaml", "version: 1\n").chmod(0)
    with modes_count(), pytest.raises(RecipeNotFound, match="Permission denied"):
        load_recipe("r.yaml")


# --- --set ----------------------------------------------------------------------------------------


def overridden(folder: Path, *items: str) -> Recipe:
    write(folder, "full.yaml", FULL)
    return load_recipe("full.yaml", items)


def test_set_a_recipe_path(tmp_path: Path) -> None:
    recipe = overridden(
        tmp_path,
        "check.tokens=2048",
        "check.limits.kl=0.02",
        "target.threads=2",
        "check.data=[code]",
        "model.pooling=",
        "check.tokens=7",
        "passes.canonicalize=[x.y]",
    )
    assert recipe.check.tokens == 7
    assert recipe.check.limits == {"kl": 0.02, "top1": 1.0}
    assert recipe.check.data == ("code",)
    assert recipe.model.pooling is None
    assert [e.ref for e in recipe.passes["canonicalize"]] == ["x.y"]


def test_set_a_pass_option(tmp_path: Path) -> None:
    recipe = overridden(tmp_path, "quantize.linear.scheme=int8-g32", "plugins/my.py:Mine.level=[1, 2]")
    linear, mine = recipe.passes["quantize"]
    assert linear.options["scheme"] == "int8-g32"
    assert linear.options["skip"] == ("lm_head", 3)
    assert mine.options == {"level": (1, 2)}
    assert str(linear.where) == "full.yaml:8 (--set quantize.linear.scheme=int8-g32)"


@pytest.mark.parametrize(
    ("item", "what", "hint"),
    [
        ("check.tokens", "expected KEY=VALUE", ""),
        ("=3", "expected KEY=VALUE", ""),
        ("check.token=3", "check.token names nothing", "did you mean check.tokens"),
        ("chek.tokens=3", "chek.tokens names nothing", "check.tokens"),
        ("tokens=3", "tokens names nothing", "did you mean calibrate.tokens or check.tokens?"),
        ("quantize.linaer.scheme=x", "names nothing", "quantize.linear.scheme"),
        ("fuse.qkv.x=1", "fuse.qkv.x names nothing", ""),
        ("check.tokens=many", "check.tokens: expected a whole number >= 1, found 'many'", ""),
        ("check.limits.kll=1", "names nothing", "check.limits.kl"),
        ("check.tokens=[1", "not valid YAML", ""),
        ("quantize.linear.skip={a: 1}", "expected a plain value or a list", ""),
        ("version=1", "version can't be overridden", ""),
        ("extends=cpu-fp32", "extends can't be overridden", ""),
    ],
)
def test_bad_set(tmp_path: Path, item: str, what: str, hint: str) -> None:
    with pytest.raises(BadOverride) as caught:
        overridden(tmp_path, item)
    assert what in caught.value.what
    assert caught.value.where == f"--set {item}"
    assert hint in (caught.value.hint or "")


# --- presets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_presets())
def test_every_preset_loads(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    assert recipe == load_recipe(name)


def test_limits_are_the_metrics_that_are_measured() -> None:
    assert list(METRICS) == list(gates.METRICS)


def test_presets_lie_in_the_package() -> None:
    assert (preset_folder() / "__init__.py").is_file()
