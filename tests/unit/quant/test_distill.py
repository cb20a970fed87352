"""Training packed weights: it brings the module nearer to its original, and a killed run ends with the same bytes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from optcc.errors import BadOption, NoCalibration, PreconditionFailed
from optcc.ir.interpret import interpret
from optcc.ir.module import Module
from optcc.ir.parse import parse_module
from optcc.pm import Context, parse_pipeline
from optcc.pm.context import Calibration
from optcc.pm.instruments import Check
from optcc.pm.run import run_pipeline
from optcc.quant import distill

_TEXT = """optcc.ir 1
attrs {"form": "canonical", "kind": "decoder"}
graph model {
  %input_ids : i64[T] = input
  %query_starts : i32[R + 1] = input
  %x : f32[T, 64] = aten.embedding.default(@embed.weight, %input_ids)
  %q : f32[T, 64] = aten.linear.default(%x, @q.weight)
  %heads : f32[T, 4, 16] = aten.reshape.default(%q, [-1, 4, 16])
  %a : f32[T, 4, 16] = optcc.attention.default(%heads, %heads, %heads, %query_starts, 0.25)
  %flat : f32[T, 64] = aten.reshape.default(%a, [-1, 64])
  %y : f32[T, 64] = aten.add.Tensor(%x, %flat)
  %n : f32[T, 64] = optcc.rms_norm.default(%y, @norm.weight, 1e-06)
  %up : f32[T, 64] = aten.linear.default(%n, @up.weight, @up.bias)
  %gelu : f32[T, 64] = aten.gelu.default(%up)
  %h : f32[T, 32] = aten.linear.default(%gelu, @head.weight)
  return logits = %h
}
weights {
  @embed.weight : f32[32, 64]
  @head.weight : f32[32, 64]
  @norm.weight : f32[64]
  @q.weight : f32[64, 64]
  @up.bias : f32[64]
  @up.weight : f32[64, 64]
}
"""
_PASS = "quantize.distill{scheme=int3-g64-asym steps=12 lr=0.01 start="


def decoder() -> Module:
    """A tiny decoder with random weights, the same every time."""
    module = parse_module(_TEXT)
    generator = torch.Generator().manual_seed(0)
    for name in sorted(module.weights):
        _, shape = module.weights.spec(name)
        spread = 0.25 if len(shape) == 2 else 1.0
        module.weights.put(name, torch.randn(shape, generator=generator) * spread)
    return module


def data(windows: int = 8) -> Calibration:
    """Windows of random tokens."""
    generator = torch.Generator().manual_seed(1)
    starts = torch.tensor([0, 24], dtype=torch.int32)
    batches = tuple(
        {"input_ids": torch.randint(0, 32, (24,), generator=generator), "query_starts": starts}
        for _ in range(windows)
    )
    return Calibration(batches, "tiny", 24 * windows)


def packed(module: Module) -> dict[str, Tensor]:
    """All weights as they are stored."""
    return {name: module.weights[name].clone() for name in sorted(module.weights)}


def run(module: Module, start: str = "quantize.linear", **given: object) -> Context:
    """Distill a module."""
    ctx = Context(calibration=data(), **given)  # type: ignore[arg-type]
    run_pipeline(module, parse_pipeline(f'{_PASS}"{start}"}}'), ctx, [Check()])
    return ctx


def _kl(original: Module, module: Module) -> float:
    fresh = data(40).batches[8:]
    total = 0.0
    for batch in fresh:
        p, q = (interpret(m, batch)["logits"].log_softmax(-1) for m in (original, module))
        total += float((p.exp() * (p - q)).sum(-1).mean())
    return total / len(fresh)


def test_it_answers_more_like_its_original() -> None:
    original, plain, module = decoder(), decoder(), decoder()
    run_pipeline(plain, parse_pipeline("quantize.linear{scheme=int3-g64-asym}"), Context(), [Check()])
    ctx = run(module)
    assert module.attrs["distilled"] == [{"steps": 12, "kept": True}]
    assert module.attrs["schemes"] == plain.attrs["schemes"]
    assert _kl(original, module) < 0.9 * _kl(original, plain)
    assert "held-out loss" in ctx.notes[-1]
    assert len(ctx.tables["distillation"]) == 12
    # What is left in floating point is untouched.
    assert all(
        torch.equal(module.weights[n], original.weights[n])
        for n in ("embed.weight", "norm.weight", "up.bias")
    )
    assert torch.equal(module.weights["up.weight.zero"], plain.weights["up.weight.zero"])


def test_it_starts_from_what_gptq_packed() -> None:
    """Hardly trained, the levels are still those of GPTQ, which rounding to nearest would not give."""
    plain, first, module = decoder(), decoder(), decoder()
    run_pipeline(plain, parse_pipeline("quantize.linear{scheme=int3-g64-asym}"), Context(), [Check()])
    step = parse_pipeline("quantize.gptq{scheme=int3-g64-asym}")
    run_pipeline(first, step, Context(calibration=data()), [Check()])
    tiny = "quantize.distill{scheme=int3-g64-asym start=quantize.gptq steps=2 lr=1e-9 scale-lr=1e-9}"
    run_pipeline(module, parse_pipeline(tiny), Context(calibration=data()), [Check()])
    for name in ("q.weight.packed", "up.weight.packed"):
        assert torch.equal(module.weights[name], first.weights[name])
        assert not torch.equal(plain.weights[name], first.weights[name])


def test_scales_alone() -> None:
    """Levels stay as GPTQ chose them, scales are trained, and the module comes nearer to its original."""
    original, first, module = decoder(), decoder(), decoder()
    gptq = parse_pipeline("quantize.gptq{scheme=int3-g64-asym}")
    run_pipeline(first, gptq, Context(calibration=data()), [Check()])
    step = parse_pipeline(
        "quantize.distill{scheme=int3-g64-asym start=quantize.gptq train=scales steps=20 scale-lr=0.01}"
    )
    run_pipeline(module, step, Context(calibration=data()), [Check()])
    assert module.attrs["distilled"] == [{"steps": 20, "kept": True}]
    changed = {
        name for name, tensor in packed(module).items() if not torch.equal(tensor, first.weights[name])
    }
    assert changed == {name for name in module.weights if name.endswith(".scale")}
    assert _kl(original, module) < 0.98 * _kl(original, first)


def test_scales_of_either_sign_are_trained_as_they_are() -> None:
    original, first, module = decoder(), decoder(), decoder()
    step = parse_pipeline("quantize.gptq{scheme=int3-g32 signed=true}")
    run_pipeline(first, step, Context(calibration=data()), [Check()])
    assert bool((first.weights["up.weight.scale"] < 0).any())
    text = 'quantize.distill{scheme=int3-g32 steps=12 lr=0.01 start="quantize.gptq{signed=true}"}'
    ctx = Context(calibration=data())
    run_pipeline(module, parse_pipeline(text), ctx, [Check()])
    before = float(ctx.notes[-1].partition("held-out loss ")[2].split()[0])
    assert before < 2 * _kl(original, first), "it began somewhere else"
    assert _kl(original, module) <= _kl(original, first)


def test_the_same_bytes_again() -> None:
    first, second = decoder(), decoder()
    run(first)
    run(second)
    assert all(
        torch.equal(a, b) for a, b in zip(packed(first).values(), packed(second).values(), strict=True)
    )


def test_no_better_means_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A learning rate that ruins the weights: what the first pass packed stays, and the note says so."""
    plain, module = decoder(), decoder()
    run_pipeline(plain, parse_pipeline("quantize.linear{scheme=int3-g64-asym}"), Context(), [Check()])
    monkeypatch.setattr(f"{__name__}._PASS", "quantize.distill{scheme=int3-g64-asym steps=6 lr=3.0 start=")
    ctx = run(module)
    assert "no better" in ctx.notes[-1]
    assert module.attrs["distilled"] == [{"steps": 6, "kept": False}]
    before, after = packed(plain), packed(module)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_a_killed_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """A process is killed in the middle of training; a second one takes up what it kept."""
    child = subprocess.Popen(
        [sys.executable, "-m", __name__, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    for line in child.stdout:
        if int(line) >= 5:
            child.send_signal(signal.SIGKILL)
            break
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    seen: list[int] = []
    resumed, whole = decoder(), decoder()
    run(resumed, scratch=tmp_path, progress=lambda text, done, total: seen.append(done))
    run(whole)
    assert min(seen) > 4, "it began anew"
    assert all(
        torch.equal(a, b) for a, b in zip(packed(resumed).values(), packed(whole).values(), strict=True)
    )


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ("start=quantize.rotate", BadOption),
        ('start="quantize.linear,quantize.linear"', BadOption),
        ("steps=0", BadOption),
        ("windows=0", BadOption),
        ("device=tpu", BadOption),
        ("train=levels", BadOption),
    ],
)
def test_bad_options(options: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        run_pipeline(
            decoder(),
            parse_pipeline(f"quantize.distill{{scheme=int4-g64 {options}}}"),
            Context(calibration=data()),
        )


def test_powers_of_two_are_not_trained() -> None:
    step = parse_pipeline("quantize.distill{scheme=mxfp4 train=scales}")
    with pytest.raises(BadOption, match="powers of two"):
        run_pipeline(decoder(), step, Context(calibration=data()))


def test_data_is_needed() -> None:
    step = parse_pipeline("quantize.distill{scheme=int4-g64}")
    with pytest.raises(NoCalibration):
        run_pipeline(decoder(), step, Context())
    with pytest.raises(PreconditionFailed, match="two windows"):
        run_pipeline(decoder(), step, Context(calibration=data(1)))


def test_minutes_become_steps() -> None:
    module = decoder()
    step = parse_pipeline("quantize.distill{scheme=int4-g64 steps=0 minutes=0.005}")
    run_pipeline(module, step, Context(calibration=data()), [Check()])
    record = module.attrs["distilled"]
    assert isinstance(record, list)
    assert isinstance(record[0], dict)
    assert int(str(record[0]["steps"])) >= 1


@pytest.mark.gpu
def test_a_gpu_does_as_well() -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch finds no GPU")
    original, plain, module = decoder(), decoder(), decoder()
    run_pipeline(plain, parse_pipeline("quantize.linear{scheme=int3-g64-asym}"), Context(), [Check()])
    step = parse_pipeline("quantize.distill{scheme=int3-g64-asym steps=12 lr=0.01 device=cuda}")
    run_pipeline(module, step, Context(calibration=data()), [Check()])
    assert _kl(original, module) < 0.9 * _kl(original, plain)


def _child(folder: Path) -> None:
    """Train, keep the state after every update, and print how many were made."""
    distill._SAVE_SECONDS = 0.0
    run(decoder(), scratch=folder, progress=lambda text, done, total: print(done, flush=True))


if __name__ == "__main__":
    _child(Path(sys.argv[1]))
