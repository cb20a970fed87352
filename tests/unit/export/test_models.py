"""Models and passes whose result a checkpoint can't hold are refused with the reason; what it can hold is the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from optcc.errors import ExportRefused
from optcc.export.hf import Exported, Origin, export_hf
from optcc.export.modelopt import spell as spell_modelopt
from optcc.export.stored import stored_weights
from optcc.frontend import capture, resolve
from optcc.frontend.lift import to_module
from optcc.ir.interpret import interpret
from optcc.ir.module import Module
from optcc.pm import Context, run_pipeline
from optcc.pm.context import Calibration
from optcc.pm.text import parse_pipeline
from optcc.recipe import load_recipe
from tests import zoo
from tests.unit.passes.conftest import step

Models = Callable[[str], Path]
Compiled = Callable[[str, str], Module]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """A tiny model by the name of its architecture."""
    root = tmp_path_factory.mktemp("models")

    @cache
    def get(name: str) -> Path:
        if name != "bert":
            return zoo.save(name, root / name)
        torch.manual_seed(0)
        sizes = {
            "hidden_size": 64,
            "num_attention_heads": 2,
            "intermediate_size": 128,
            "num_hidden_layers": 1,
        }
        model = transformers.BertModel(transformers.BertConfig(vocab_size=64, **sizes))
        model.save_pretrained(root / name)
        return root / name

    return get


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTCC_CACHE", str(tmp_path / "cache"))


def _batch(module: Module) -> dict[str, torch.Tensor]:
    if module.attrs.get("kind") == "decoder":
        return step()
    return {"input_ids": torch.arange(16).view(2, 8), "attention_mask": torch.ones(2, 8, dtype=torch.int64)}


@pytest.fixture(scope="module")
def compiled(models: Models) -> Compiled:
    """A model, canonical, after a pipeline."""

    @cache
    def canonical(name: str) -> Module:
        module = to_module(capture(resolve(str(models(name)))))
        passes = load_recipe("cpu-fp32").passes["canonicalize"]
        run_pipeline(module, parse_pipeline(",".join(p.ref for p in passes)), Context("reference", 1))
        return module

    def get(name: str, text: str) -> Module:
        module = canonical(name).clone()
        context = Context("reference", 1, calibration=Calibration((_batch(module),), "tiny", 16))
        run_pipeline(module, parse_pipeline(text), context)
        return module

    return get


def _export(module: Module, model: Path, out: Path, **options: Any) -> Exported:
    return export_hf(module, Origin("m", {"config.json": model / "config.json"}), out, **options)


@pytest.mark.parametrize(
    ("name", "weight", "why"),
    [("gemma2", "norm", "1 + weight"), ("gemma3", "norm", "1 + weight"), ("gpt2", "c_attn", "Conv1D")],
)
def test_weights_that_are_no_longer_the_models_own(
    compiled: Compiled, models: Models, name: str, weight: str, why: str, tmp_path: Path
) -> None:
    module = compiled(name, "quantize.linear{scheme=int4-g32}")
    with pytest.raises(ExportRefused, match=weight) as error:
        _export(module, models(name), tmp_path / "out")
    assert why in str(error.value.hint)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", ["compressed-tensors", "modelopt"])
def test_static_ranges_of_our_own(compiled: Compiled, models: Models, format: str, tmp_path: Path) -> None:
    """W8A8 with the activations of `quantize.static`, written, read back, and the same results."""
    module = compiled("llama", "quantize.static{symmetric=true},fuse.dequant-linear,fuse.qkv")
    done = _export(module, models("llama"), tmp_path / "out", format=format)
    assert list(done.schemes) == [
        "int-quantized" if format == "compressed-tensors" else "W8A8_SQ_PER_CHANNEL"
    ]
    again = to_module(capture(resolve(str(tmp_path / "out"))))
    before, after = ({w.name: w for w in stored_weights(m)} for m in (module, again))
    assert set(before) == set(after)
    for name, weight in before.items():
        other = after[name]
        assert (weight.form, weight.width) == (other.form, other.width)
        for part in ("packed", "scale"):
            assert torch.equal(weight.part(module, part), other.part(again, part))  # type: ignore[arg-type]
        assert weight.rounding is not None
        assert other.rounding is not None
        assert weight.rounding.form == other.rounding.form
        scales = [
            m.weights[str(w.rounding.scale)] for m, w in ((module, weight), (again, other)) if w.rounding
        ]
        assert torch.equal(*scales)
    batch = step()
    assert torch.allclose(interpret(module, batch)["logits"], interpret(again, batch)["logits"], atol=1e-4)


def test_zero_points_of_activations(compiled: Compiled, models: Models, tmp_path: Path) -> None:
    module = compiled("llama", "quantize.static")
    with pytest.raises(ExportRefused, match="zero point") as error:
        _export(module, models("llama"), tmp_path / "out")
    assert "symmetric: true" in str(error.value.hint)


@pytest.mark.parametrize(
    ("name", "text", "reader"),
    [
        # A norm after the branch: the sum behind reads what the linears read.
        ("bert", "quantize.static{symmetric=true}", "add"),
        # q and k read what v, which stays plain, reads as well.
        ("llama", 'quantize.static{symmetric=true skip=["*v_proj*"]}', "linear"),
    ],
)
def test_rounded_values_with_other_readers(
    compiled: Compiled, models: Models, name: str, text: str, reader: str, tmp_path: Path
) -> None:
    """A checkpoint would leave out what they read."""
    module = compiled(name, text)
    with pytest.raises(ExportRefused, match=f"aten.{reader}.* reads values that are rounded"):
        _export(module, models(name), tmp_path / "out")


def test_tables_are_named(compiled: Compiled, models: Models, tmp_path: Path) -> None:
    """A packed table of any model is a target by its name: the class Linear doesn't mean it."""
    module = compiled("bert", "quantize.linear{scheme=int8-channel}")
    done = _export(module, models("bert"), tmp_path / "out", vocabulary="packed")
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    targets = config["config_groups"]["group_0"]["targets"]
    assert "embeddings.word_embeddings" in targets
    assert len(targets) == sum(done.schemes.values())


@pytest.mark.parametrize(
    ("weight", "activation", "why"),
    [
        ("{type: int8, group: 32, scale: e8m0}", "null", "e8m0 scales"),
        ("{type: int8, group: 16, rows: 16}", "null", "rows share scales"),
        ("{type: int8, group: 32}", "{type: e4m3, group: 32}", "float activations"),
        ("{type: e4m3, group: 32}", "{type: int8, group: 32}", "integer activations"),
        ("{type: e4m3, group: 0, rows: 16}", "null", "whole rows"),
        ("{type: e2m1, group: 32}", "null", "nvfp4, mxfp4"),
        ("{type: e4m3, group: 32}", "{type: e2m1, group: 32}", "e2m1 activations"),
        ("{type: int8, group: 32}", "{type: int8, group: 32, scale: float16}", "float16 scales"),
    ],
)
def test_schemes_that_no_format_holds(
    compiled: Compiled, models: Models, weight: str, activation: str, why: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(
        f"version: 1\ndescription: x\nweight: {weight}\nactivation: {activation}\nembedding: false\n"
    )
    module = compiled("llama", f'quantize.linear{{scheme="{tmp_path}/mine.yaml"}}')
    with pytest.raises(ExportRefused, match=f"no checkpoint format holds mine: .*{why}"):
        _export(module, models("llama"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_rows_to_a_byte_need_an_even_number_of_rows(compiled: Compiled, models: Models) -> None:
    from dataclasses import replace

    module = compiled("llama", "quantize.linear{scheme=int4-g32}")
    weight = stored_weights(module)[0]
    assert spell_modelopt(weight) == "W4A16_AWQ"
    assert spell_modelopt(replace(weight, rows=weight.rows - 1)) is None


def test_a_damaged_input_scale_is_found(
    compiled: Compiled, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optcc.export import compressed

    module = compiled("llama", "quantize.static{symmetric=true}")
    right = compressed._whole
    monkeypatch.setattr(compressed, "_whole", lambda module, name: right(module, name) * 2)
    with pytest.raises(ExportRefused, match="another scale of its input"):
        _export(module, models("llama"), tmp_path / "out")
