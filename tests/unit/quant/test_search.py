"""Sensitivities and the search on tiny decoders: against whole runs, and against every mixture."""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from optcc.errors import BadOption, GroupSize, NoCalibration, PreconditionFailed
from optcc.ir.interpret import interpret
from optcc.ir.module import Module
from optcc.ir.parse import parse_module
from optcc.ir.replay import replay, result
from optcc.ir.text import module_text
from optcc.pm import Context, parse_pipeline, run_pipeline
from optcc.pm.context import Calibration
from optcc.pm.instruments import Check
from optcc.quant.divergence import Reference
from optcc.quant.frontier import Frontier
from optcc.quant.mixture import Packer, apply_mixture
from optcc.quant.select import select_weights
from optcc.quant.sensitivity import Trial, make_trial, measure_sensitivities, pick_batches
from optcc.quant.units import make_units
from optcc.recipe.schemes import load_scheme

# Two layers of siblings and a tied head; the second layer's siblings matter a hundred times less than the first's.
TEXT = """\
optcc.ir 1
attrs {"form": "canonical", "kind": "decoder"}
graph model {
  %input_ids : i64[T] = input
  %e : f32[T, 64] = aten.embedding.default(@emb, %input_ids)
  %q : f32[T, 64] = aten.linear.default(%e, @one.q)
  %k : f32[T, 64] = aten.linear.default(%e, @one.k)
  %a : f32[T, 64] = aten.tanh.default(%q)
  %m : f32[T, 64] = aten.mul.Tensor(%a, %k)
  %o : f32[T, 64] = aten.linear.default(%m, @one.o)
  %s : f32[T, 64] = aten.add.Tensor(%e, %o)
  %g : f32[T, 128] = aten.linear.default(%s, @two.gate)
  %u : f32[T, 128] = aten.linear.default(%s, @two.up)
  %b : f32[T, 128] = aten.mul.Tensor(%g, %u)
  %d : f32[T, 64] = aten.linear.default(%b, @two.down)
  %x : f32[T, 64] = aten.mul.Tensor(%d, 0.03)
  %r : f32[T, 64] = aten.add.Tensor(%s, %x)
  %h : f32[T, 192] = aten.linear.default(%r, @emb)
  return logits = %h
}
weights {
  @emb : f32[192, 64]
  @one.k : f32[64, 64]
  @one.o : f32[64, 64]
  @one.q : f32[64, 64]
  @two.down : f32[64, 128]
  @two.gate : f32[128, 64]
  @two.up : f32[128, 64]
}
"""
SCHEMES = ("int4-g64-a8", "int8-g64-a8", "int3-g64-asym")
UNITS = ["emb", "one.{k,q}", "one.o", "two.{gate,up}", "two.down"]


def _module() -> Module:
    module = parse_module(TEXT)
    for seed, name in enumerate(sorted(module.weights)):
        _, shape = module.weights.spec(name)
        generator = torch.Generator().manual_seed(seed)
        module.weights.put(name, torch.randn(shape, generator=generator) * (0.3 if name == "emb" else 0.15))
    return module


def _batches() -> tuple[dict[str, Tensor], ...]:
    return tuple(
        {"input_ids": torch.randint(0, 192, (n,), generator=torch.Generator().manual_seed(n))}
        for n in (24, 17, 9)
    )


def _trial(module: Module, schemes: tuple[str, ...] = SCHEMES) -> Trial:
    loaded = [load_scheme(name) for name in schemes]
    selected = [s for part in ("vocabulary", "body") for s in select_weights(module, loaded[0], part=part)]
    return make_trial(module, _batches(), make_units(selected), loaded, Packer(module, None, 0))


def _silent(text: str, done: int, total: int) -> None:
    pass


def test_a_replay_gives_what_the_interpreter_gives_from_the_start_and_from_the_middle() -> None:
    module, batches = _module(), _batches()
    kept: dict[str, list[Tensor]] = {}

    def visit(node: object, live: object) -> None:
        if getattr(node, "name", "") == "g":
            assert isinstance(live, dict)
            kept.update(live)

    wanted = [interpret(module, batch)["logits"] for batch in batches]
    (whole,) = replay(module, batches, [result(module, "logits")], visit=visit)
    values = {name for name in kept if not name.startswith("w_")}
    assert values == {"s"}, "only what is read later is live"
    seen: list[str] = []
    (tail,) = replay(
        module, batches, [result(module, "logits")], given=kept, visit=lambda node, _: seen.append(node.name)
    )
    assert "q" not in seen and "g" in seen
    for parts in zip(wanted, whole, tail, strict=True):
        assert torch.equal(parts[0], parts[1]) and torch.equal(parts[0], parts[2])


def test_units_are_the_weights_that_read_one_value() -> None:
    trial = _trial(_module())
    assert [u.name for u in trial.units] == UNITS
    assert [u.embeds for u in trial.units] == [True, False, False, False, False]


def test_a_measured_sensitivity_is_the_kl_of_a_whole_run_with_only_that_unit_quantized() -> None:
    module = _module()
    trial = _trial(module)
    text = module_text(module)
    found = measure_sensitivities(trial, True, None, _silent)
    assert module_text(module) == text, "measuring changes nothing"
    original = Reference([interpret(module, b)["logits"] for b in trial.batches])
    for unit, scheme in product(trial.units, trial.schemes):
        copy = module.clone()
        apply_mixture(copy, trial.units, {unit.name: scheme}, trial.packer)
        wanted = original.mean([interpret(copy, b)["logits"] for b in trial.batches])
        assert found[unit.name][scheme.name] == pytest.approx(wanted, rel=1e-9)


def test_estimates_follow_the_measured_values() -> None:
    """Within a factor of 1.5 over four orders of magnitude; the anchor and the vocabulary exactly."""
    trial = _trial(_module())
    exact, estimated = (measure_sensitivities(trial, flag, None, _silent) for flag in (True, False))
    assert estimated["emb"] == exact["emb"]
    for unit in UNITS[1:]:
        ratios = [estimated[unit][s] / exact[unit][s] for s in SCHEMES]
        assert all(1 / 1.5 < ratio < 1.5 for ratio in ratios), (unit, ratios)
        assert min(abs(ratio - 1) for ratio in ratios) < 1e-9


def test_measurements_that_are_kept_are_not_done_again(tmp_path: Path) -> None:
    trial, kept = _trial(_module()), tmp_path / "sensitivities.jsonl"
    first = measure_sensitivities(trial, True, kept, _silent)
    lines = kept.read_text().splitlines()
    assert len(lines) == len(UNITS)
    # As a kill leaves it: two units, and half a line.
    kept.write_text("\n".join([*lines[:2], lines[2][:20]]) + "\n")
    assert measure_sensitivities(trial, True, kept, _silent) == first
    assert kept.read_text().splitlines()[3:] == lines[2:], (
        "the three units that were not finished, and no other"
    )


def test_the_search_comes_near_the_best_of_all_mixtures() -> None:
    """All 32 mixtures are measured; what the search finds under either limit is at most a little worse."""
    trial = _trial(_module(), SCHEMES[:2])
    frontier = Frontier(trial, measure_sensitivities(trial, True, None, _silent), None, _silent)
    places = range(len(frontier.names))
    points = [frontier.measure("any", picks) for picks in product(places, repeat=len(UNITS))]
    assert len(points) == 32
    for limit in sorted(p.bytes for p in points)[4::8]:
        found = frontier.under_bytes(limit, "bytes")
        assert found.bytes <= limit
        assert found.kl <= 1.15 * min(p.kl for p in points if p.bytes <= limit)
    for kl in sorted(p.kl for p in points)[4::8]:
        found = frontier.under_kl(kl, "kl")
        assert found.kl <= kl
        assert found.bytes <= 1.1 * min(p.bytes for p in points if p.kl <= kl)
    best = sorted((p for p in points if frontier.is_best(p)), key=lambda p: p.bytes)
    assert all(a.bytes < b.bytes and a.kl > b.kl for a, b in pairwise(best))


def test_limits_that_no_mixture_meets_are_refused_with_what_can_be_met() -> None:
    trial = _trial(_module())
    frontier = Frontier(trial, measure_sensitivities(trial, True, None, _silent), None, _silent)
    with pytest.raises(BadOption, match="the smallest mixture of"):
        frontier.under_bytes(1000, "tiny")
    with pytest.raises(BadOption, match="KL of at most 1e-12"):
        frontier.under_kl(1e-12, "exact")


def _run(pipeline: str, module: Module, scratch: Path | None = None) -> Context:
    ctx = Context(calibration=Calibration(_batches(), "digest", 50), scratch=scratch)
    run_pipeline(module, parse_pipeline(pipeline), ctx, [Check()])
    return ctx


def test_the_pass_beats_the_uniform_schemes_and_says_so(tmp_path: Path) -> None:
    module = _module()
    ctx = _run("quantize.search{kl=0.003 tokens=50}", module, tmp_path)
    rows = ctx.tables["frontier"]
    (chosen,) = [row for row in rows if row["chosen"]]
    assert chosen["kl"] <= 0.003  # type: ignore[operator]
    uniform = {row["mixture"]: row for row in rows if str(row["mixture"]).startswith("all ")}
    assert uniform["all int4-g64-a8"]["kl"] > 0.003 > uniform["all int8-g64-a8"]["kl"]  # type: ignore[operator]
    assert chosen["megabytes"] < uniform["all int8-g64-a8"]["megabytes"]  # type: ignore[operator]
    schemes = module.attrs["schemes"]
    assert isinstance(schemes, dict)
    assert set(schemes) == {"emb", "one.k", "one.o", "one.q", "two.down", "two.gate", "two.up"}
    assert set(schemes.values()) == {"int4-g64-a8", "int8-g64-a8"}
    assert schemes["one.q"] == schemes["one.k"] and schemes["two.gate"] == schemes["two.up"]
    assert len(ctx.tables["sensitivity"]) == len(UNITS)
    measured = interpret(module, _batches()[0])["logits"]
    assert torch.isfinite(measured).all()


def test_the_pass_gives_the_same_module_again_and_after_a_kill(tmp_path: Path) -> None:
    pipeline = "quantize.search{mb=0.03 points=1}"
    first, second = _module(), _module()
    wanted = _run(pipeline, first, tmp_path)
    measured = tmp_path / "measured" / "sensitivities.jsonl"
    measured.write_text("\n".join(measured.read_text().splitlines()[:2]) + "\n")
    again = _run(pipeline, second, tmp_path)
    assert module_text(first) == module_text(second) and wanted.tables == again.tables
    for name in first.weights:
        assert torch.equal(first.weights[name], second.weights[name])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ("", BadOption),
        ("kl=0.1 mb=1", BadOption),
        ("kl=0.1 candidates=[int4-g64-a8]", BadOption),
        ("kl=0.1 candidates=[int4-g64-a8,int4-g64-a8]", BadOption),
        ("kl=0.1 candidates=[int8-g64-a8,fp8-tensor-static]", BadOption),
        ("kl=0.1 part=head", BadOption),
        ("kl=0.1 candidates=[int4-g128-a8,int8-g64-a8]", GroupSize),
    ],
)
def test_options_that_make_no_sense_are_refused(options: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        _run(f"quantize.search{{{options}}}", _module())


def test_it_needs_data_and_logits() -> None:
    with pytest.raises(NoCalibration):
        run_pipeline(_module(), parse_pipeline("quantize.search{kl=0.1}"), Context())
    module = parse_module(TEXT.replace("return logits", "return features"))
    with pytest.raises(PreconditionFailed, match="no result 'logits'"):
        _run("quantize.search{kl=0.1}", module)


def test_batches_are_spread_over_the_data_and_every_second_row_is_looked_at() -> None:
    rows = torch.arange(8)
    batches = [{"input_ids": torch.full((8,), i), "logit_rows": rows} for i in range(12)]
    picked = pick_batches(batches, 30)
    assert [int(b["input_ids"][0]) for b in picked] == [0, 3, 6, 9]
    assert all(b["logit_rows"].tolist() == [0, 2, 4, 6] for b in picked)
    assert len(pick_batches(batches, 10**6)) == 12
