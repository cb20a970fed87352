"""Weights under training: they start where they were packed, gradients are those of learned step sizes."""

from __future__ import annotations

import pytest
import torch

from optcc.ir.formats import find_format
from optcc.ir.ops.quantized import dequantize
from optcc.quant.fixed_levels import fix_levels
from optcc.quant.learned_scale import LearnedScale
from optcc.quant.rounding import round_to_nearest, to_groups
from optcc.quant.straight_through import Latent, make_latent
from optcc.recipe.schemes import WeightFormat

_CPU = torch.device("cpu")
_FORMS = [
    WeightFormat("int4", 32),
    WeightFormat("int4", 32, symmetric=False, scale="float16"),
    WeightFormat("int8", 0, scale="bfloat16"),
    WeightFormat("int3", 32),
    WeightFormat("ternary", 32),
    WeightFormat("e2m1", 16, scale="e4m3"),
    WeightFormat("e2m1", 32, scale="e8m0"),
    WeightFormat("e4m3", 32, rows=32),
]


def _weight(rows: int = 48, width: int = 64) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(1)) * 0.3


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("form", _FORMS, ids=str)
def test_starts_where_it_was_packed(form: WeightFormat, signed: bool) -> None:
    """Even when the levels are not the nearest ones: then the latent weight goes as near to the original as it can."""
    weight = _weight()
    packed = round_to_nearest(weight + 0.05 * _weight().roll(1, 0), form, search=4, signed=signed)
    integers = form.type in ("int8", "int4", "int3") and form.symmetric
    assert bool((packed.scale.float() < 0).any()) == (signed and integers)
    latent = make_latent(weight, packed, form, _CPU)
    again = latent.pack()
    number = find_format(form.type)
    assert torch.equal(number.unpack(again.packed), number.unpack(packed.packed))
    assert torch.allclose(again.scale.float(), packed.scale.float(), rtol=1e-5)
    assert again.scale.dtype == packed.scale.dtype
    assert latent.scale.learns == (form.scale != "e8m0")
    value = latent.value()
    assert value.shape == weight.shape
    # Rounded to nearest, it is the original itself, except where that lies beyond the outermost level.
    exact = make_latent(weight, round_to_nearest(weight, form), form, _CPU)
    wanted = to_groups(weight, form)
    clipped = (
        exact.scale.grid().nearest(wanted).abs() < 0.98 * wanted.abs()
        if form.type != "ternary"
        else wanted != 0
    )
    moved = (exact.groups.detach() - wanted).abs() > 1e-6
    assert not bool((moved & ~clipped).any())
    value.sum().backward()
    assert latent.groups.grad is not None
    assert bool(latent.groups.grad.any())


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_gradients_are_those_of_learned_step_sizes(sign: float) -> None:
    """One group at scale 0.5: 0.3 is level 1 (0.6 steps), 9.0 is clipped to level 7, -1.1 is level -2. At scale -0.5
    the same levels stand for the weights' negatives."""
    form = WeightFormat("int4", 0)
    groups = (sign * torch.tensor([[[0.3, 9.0, -1.1, 0.0]]])).requires_grad_()
    log_scale = torch.tensor([[[0.5]]]).log().requires_grad_()
    latent = Latent(1, groups, LearnedScale(form, log_scale, torch.full((1, 1, 1), sign), None, None))
    value = latent.value()
    assert (sign * value).tolist() == [[0.5, 3.5, -1.0, 0.0]]
    value.backward(torch.tensor([[1.0, 10.0, 100.0, 1000.0]]))
    assert groups.grad is not None
    assert groups.grad.flatten().tolist() == [1.0, 0.0, 100.0, 1000.0]
    # round(v) - v inside, the outermost level beyond; times the scale, because its logarithm is learned.
    expected = (1.0 * (1 - 0.6) + 10.0 * 7 + 100.0 * (-2 + 2.2)) * 0.5 * sign
    assert log_scale.grad is not None
    assert float(log_scale.grad) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("form", _FORMS, ids=str)
def test_fixed_levels_are_what_was_packed(form: WeightFormat) -> None:
    weight = _weight()
    packed = round_to_nearest(weight, form, search=4, signed=True)
    fixed = fix_levels(packed, len(weight), form, _CPU)
    again = fixed.pack()
    assert again.packed is packed.packed
    assert torch.allclose(again.scale.float(), packed.scale.float(), rtol=1e-5)
    assert bool(fixed.trained()) == (form.scale != "e8m0")
    unpacked = dequantize(
        again.packed,
        again.scale,
        again.zero,
        again.tensor_scale,
        form.type,
        form.group,
        form.rows,
        torch.float32,
    )
    assert torch.allclose(fixed.value(), unpacked, rtol=1e-6, atol=0)
    if fixed.trained():
        fixed.value().square().sum().backward()
        assert fixed.scale.log.grad is not None
        # A weight is proportional to its scale, so the gradient of its square is twice the square.
        wanted = 2 * to_groups(unpacked, form).square().sum(-1, keepdim=True)
        assert torch.allclose(fixed.scale.log.grad, wanted, rtol=1e-4)


def test_scales_stay_what_can_be_stored() -> None:
    form = WeightFormat("int4", 32, scale="bfloat16")
    weight = _weight()
    latent = make_latent(weight, round_to_nearest(weight, form), form, _CPU)
    with torch.no_grad():
        latent.scale.log += 0.0371
    packed = latent.pack()
    assert packed.scale.dtype == torch.bfloat16
    steps = packed.scale.float().repeat_interleave(32, -1)
    levels = (latent.value().detach() / steps).round()
    assert torch.equal(levels * steps, latent.value().detach()), "what is trained is not what is packed"
